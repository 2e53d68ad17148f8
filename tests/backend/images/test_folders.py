from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.values.errors import ImageError
from tests.backend.images.conftest import MakeMedia
from tests.backend.images.servers import LEGACY_TOKEN, Studio


@pytest.fixture
def root(tmp_path: Path, png: bytes) -> Path:
    """An allowed folder beside a secret that lies outside of it."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a cat é.png").write_bytes(png)
    (tmp_path / "secret.png").write_bytes(png)
    return folder


def test_a_file_under_an_allowed_folder_is_read_by_every_spelling(
    make_media: MakeMedia, root: Path, pixels: NDArray[np.uint8]
) -> None:
    media = make_media(local_roots=(root,))
    path = root / "sub" / "a cat é.png"
    spellings = [
        str(path),
        path.as_uri(),
        path.as_uri().replace("file:///", "file://localhost/"),
        f"file:{path}",
        "/data/local-files/?d=" + quote("sub/a cat é.png"),
        "/data/local-files?d=sub/a+cat+é.png&more=1",
        "/data/local-files/?d=" + quote(str(path)),
    ]
    for spelling in spellings:
        assert np.array_equal(media.load(spelling, "1", "7").pixels, pixels), spelling


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "sub/../../secret.png",
        "%2e%2e/secret.png",
        "..%2Fsecret.png",
        "..\\secret.png",
        "sub/..%5C..%5Csecret.png",
    ],
)
def test_local_files_never_climb_out_of_the_folder(
    name: str, make_media: MakeMedia, root: Path, studio: Studio, png: bytes
) -> None:
    studio.serve("/data/local-files/", png)
    media = make_media(local_roots=(root,), label_studio_url=studio.url, token=LEGACY_TOKEN)
    with pytest.raises(ImageError, match=r"image of task 7 .*climbs out of its folder"):
        media.load(f"/data/local-files/?d={name}", "1", "7")
    assert studio.requests == []


def test_a_whole_path_outside_the_folders_is_refused(make_media: MakeMedia, root: Path) -> None:
    media = make_media(local_roots=(root,))
    secret = root.parent / "secret.png"
    for address in (secret.as_uri(), f"/data/local-files/?d={secret}", f"/data/local-files/?d={quote(str(secret), safe='')}"):
        with pytest.raises(ImageError, match="MASKLOOM_LOCAL_ROOTS"):
            media.load(address, "1", "7")


@pytest.mark.parametrize("spelling", ["{root}/../secret.png", "{root}/%2e%2e/secret.png", "file://{root}/../secret.png"])
def test_a_path_that_begins_inside_and_ends_outside_is_refused(spelling: str, make_media: MakeMedia, root: Path) -> None:
    with pytest.raises(ImageError):
        make_media(local_roots=(root,)).load(spelling.format(root=root), "1", "7")


def test_a_folder_with_an_allowed_name_as_its_beginning_is_not_allowed(make_media: MakeMedia, root: Path, png: bytes) -> None:
    neighbour = root.parent / "images-private"
    neighbour.mkdir()
    (neighbour / "a.png").write_bytes(png)
    with pytest.raises(ImageError, match="does not lie under an allowed folder"):
        make_media(local_roots=(root,)).load((neighbour / "a.png").as_uri(), "1", "7")


def test_links_are_judged_by_where_they_end(make_media: MakeMedia, root: Path, pixels: NDArray[np.uint8]) -> None:
    (root / "out.png").symlink_to(root.parent / "secret.png")
    (root / "folder").symlink_to(root.parent)
    (root / "in.png").symlink_to(root / "sub" / "a cat é.png")
    (root / "circle").symlink_to(root / "circle")
    media = make_media(local_roots=(root,))
    assert np.array_equal(media.load("/data/local-files/?d=in.png", "1", "7").pixels, pixels)
    for name in ("out.png", "folder/secret.png"):
        for address in (f"/data/local-files/?d={name}", str(root / name), (root / name).as_uri()):
            with pytest.raises(ImageError, match="does not lie under an allowed folder"):
                media.load(address, "1", "7")
    with pytest.raises(ImageError):
        media.load((root / "circle").as_uri(), "1", "7")


def test_an_allowed_folder_may_itself_be_a_link(
    make_media: MakeMedia, root: Path, tmp_path: Path, pixels: NDArray[np.uint8]
) -> None:
    (tmp_path / "link").symlink_to(root)
    media = make_media(local_roots=(tmp_path / "link",))
    assert np.array_equal(media.load(str(tmp_path / "link" / "sub" / "a cat é.png"), "1", "7").pixels, pixels)


def test_without_allowed_folders_no_file_is_read(make_media: MakeMedia, root: Path) -> None:
    path = root / "sub" / "a cat é.png"
    for address in (str(path), path.as_uri(), f"/data/local-files/?d={quote(str(path))}", "/etc/passwd", "file:///etc/passwd"):
        with pytest.raises(ImageError, match="MASKLOOM_LOCAL_ROOTS"):
            make_media().load(address, "1", "7")


def test_a_pipe_a_folder_and_a_missing_file_are_refused_at_once(make_media: MakeMedia, root: Path) -> None:
    os.mkfifo(root / "pipe.png")
    media = make_media(local_roots=(root,))
    for name, reason in (("pipe.png", "no plain file"), ("sub", "no plain file"), ("none.png", "no such file")):
        with pytest.raises(ImageError, match=reason):
            media.load((root / name).as_uri(), "1", "7")


@pytest.mark.parametrize("name", ["a" * 300, "a%00b.png"])
def test_a_name_that_no_file_can_have_is_refused(name: str, make_media: MakeMedia, root: Path) -> None:
    with pytest.raises(ImageError, match="image of task 7"):
        make_media(local_roots=(root,)).load(f"/data/local-files/?d={name}", "1", "7")


def test_a_file_above_the_byte_limit_is_refused(make_media: MakeMedia, root: Path, png: bytes) -> None:
    with pytest.raises(ImageError, match="larger than the limit"):
        make_media(local_roots=(root,), max_bytes=len(png) - 1).load("/data/local-files/?d=sub/a cat é.png", "1", "7")


def test_a_file_that_we_do_not_have_comes_from_label_studio(
    make_media: MakeMedia, root: Path, studio: Studio, png: bytes, pixels: NDArray[np.uint8]
) -> None:
    studio.serve("/data/local-files/?d=other/b%20c.png", png)
    media = make_media(local_roots=(root,), label_studio_url=studio.url, token=LEGACY_TOKEN)
    assert np.array_equal(media.load("/data/local-files/?d=other/b c.png", "1", "7").pixels, pixels)


def test_a_file_of_this_machine_named_as_another_host_is_refused(make_media: MakeMedia, root: Path) -> None:
    with pytest.raises(ImageError, match="must not name the host"):
        make_media(local_roots=(root,)).load(f"file://elsewhere{root}/sub/a.png", "1", "7")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_in_either_way_of_writing_them_name_the_same_file(
    form: str, make_media: MakeMedia, tmp_path: Path, png: bytes, pixels: NDArray[np.uint8]
) -> None:
    """A folder from one system may hold files from another."""
    folder = tmp_path / "images" / unicodedata.normalize("NFD", "Bäume")
    folder.mkdir(parents=True)
    (folder / unicodedata.normalize("NFC", "Ü é.png")).write_bytes(png)
    media, name = make_media(local_roots=(tmp_path / "images",)), unicodedata.normalize(form, "Bäume/Ü é.png")
    for address in (
        f"{tmp_path}/images/{name}",
        f"/data/local-files/?d={quote(name)}",
        Path(f"{tmp_path}/images/{name}").as_uri(),
    ):
        assert np.array_equal(media.load(address, "1", "7").pixels, pixels)


def test_backslashes_and_percents_in_a_path_are_read_as_browsers_read_them(
    make_media: MakeMedia, root: Path, png: bytes, pixels: NDArray[np.uint8]
) -> None:
    media = make_media(local_roots=(root,))
    for address in (f"{root}\\sub\\a cat é.png", "/data\\local-files/?d=sub%5Ca%20cat%20é.png", f"{root}/sub/a%20cat%20é.png"):
        assert np.array_equal(media.load(address, "1", "7").pixels, pixels), address


def test_a_backslash_in_the_name_of_a_file_is_part_of_it(
    make_media: MakeMedia, root: Path, png: bytes, pixels: NDArray[np.uint8]
) -> None:
    (root / "one\\two.png").write_bytes(png)
    assert np.array_equal(make_media(local_roots=(root,)).load(f"{root}/one\\two.png", "1", "7").pixels, pixels)


def test_percents_and_backslashes_lead_out_of_no_folder(make_media: MakeMedia, root: Path) -> None:
    media = make_media(local_roots=(root,))
    for name in ("%2e%2e/secret.png", "..\\secret.png", "sub/%2e%2e/%2e%2e/secret.png", "%5c..%5csecret.png", "%00"):
        for address in (f"{root}/{name}", f"/data/local-files/?d={name}", f"/data/local-files/?d={quote(name)}"):
            with pytest.raises(ImageError):
                media.load(address, "1", "7")


@pytest.mark.parametrize("name", ["linked/a.png", "{root}/linked/a.png"])
def test_what_a_link_leads_out_of_the_folder_to_is_asked_of_label_studio(
    name: str, make_media: MakeMedia, root: Path, studio: Studio, png: bytes, pixels: NDArray[np.uint8]
) -> None:
    (root.parent / "elsewhere").mkdir()
    (root / "linked").symlink_to(root.parent / "elsewhere")
    (root / "linked" / "a.png").write_bytes(b"not for us")
    studio.serve("/data/local-files/", png)
    media = make_media(local_roots=(root,), label_studio_url=studio.url, token=LEGACY_TOKEN)
    address = "/data/local-files/?d=" + quote(name.format(root=root))
    assert np.array_equal(media.load(address, "1", "7").pixels, pixels)
