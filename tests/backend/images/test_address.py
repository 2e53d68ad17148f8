from __future__ import annotations

import base64
import unicodedata
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from backend.images.address import Folders, LocalFile, Remote, locate, read_data_uri, shown
from backend.images.sites import Site, read_base
from backend.values.errors import ImageError
from tests.backend.images.conftest import MakeMedia
from tests.backend.images.servers import LEGACY_TOKEN, Answer, Request, Server, Studio


def site_at(url: str, alias: str | None = None) -> Site:
    base = read_base(url)
    assert base is not None
    return Site(base, read_base(alias) if alias else None)


NOWHERE = Folders(())


@given(st.binary(max_size=300))
def test_a_data_address_gives_back_its_bytes_in_every_spelling(body: bytes) -> None:
    standard, urlsafe = base64.b64encode(body).decode(), base64.urlsafe_b64encode(body).decode()
    for payload in (standard, urlsafe, urlsafe.rstrip("="), quote(standard), f" {standard}\n"):
        assert read_data_uri(f"data:image/png;base64,{payload}") == body
    assert read_data_uri("data:application/octet-stream," + quote(body)) == body


@pytest.mark.parametrize("address", ["data:image/png;base64", "data:image/png;base64,@@@@", "data:;base64,A"])
def test_a_broken_data_address_is_refused(address: str) -> None:
    with pytest.raises(ImageError, match="data: address"):
        read_data_uri(address)


def test_a_data_address_is_an_image(make_media: MakeMedia, png: bytes, pixels: NDArray[np.uint8]) -> None:
    image = make_media().load("data:image/png;base64," + base64.b64encode(png).decode(), "1", "7")
    assert np.array_equal(image.pixels, pixels)


def test_a_data_address_above_the_byte_limit_is_refused(make_media: MakeMedia, png: bytes) -> None:
    media = make_media(max_bytes=len(png) - 1)
    with pytest.raises(ImageError, match=r"image of task 7 .*larger than the limit.*MASKLOOM_MAX_IMAGE_MIB"):
        media.load("data:image/png;base64," + base64.b64encode(png).decode(), "1", "7")


@pytest.mark.parametrize("path", ["/data/upload/1/ab-cat.png", "data/upload/1/ab-cat.png", "/media/cat.png"])
def test_a_path_of_label_studio_is_fetched_there_with_the_token(
    path: str, make_media: MakeMedia, studio: Studio, png: bytes, pixels: NDArray[np.uint8]
) -> None:
    studio.serve("/" + path.lstrip("/"), png)
    media = make_media(label_studio_url=studio.url, token=LEGACY_TOKEN)
    assert np.array_equal(media.load(path, "1", "7").pixels, pixels)
    assert studio.sent("Authorization") == [f"Token {LEGACY_TOKEN}"]


def test_label_studio_is_asked_with_what_setup_announced(make_media: MakeMedia, studio: Studio, png: bytes) -> None:
    studio.serve("/data/upload/1/a.png", png)
    media = make_media()
    media.register("1", studio.url, LEGACY_TOKEN)
    assert media.load("/data/upload/1/a.png", "1", "7").pixels.shape == (5, 7, 3)
    assert media.load(studio.url + "/data/upload/1/a.png", "1", "7").pixels.shape == (5, 7, 3)


def test_without_any_address_of_label_studio_the_message_says_which_variable_to_set(make_media: MakeMedia) -> None:
    with pytest.raises(ImageError, match=r"image of task 7 .*/data/upload/1/a.png.*MASKLOOM_LABEL_STUDIO_URL"):
        make_media().load("/data/upload/1/a.png", "1", "7")


def test_the_name_that_label_studio_gives_itself_leads_to_the_address_that_we_reach(
    make_media: MakeMedia, studio: Studio, png: bytes
) -> None:
    """In a container Label Studio calls itself http://localhost:8080; its local-storage tasks carry that name."""
    studio.serve("/data/local-files/", png)
    media = make_media(label_studio_url=studio.url, token=LEGACY_TOKEN)
    media.register("1", "http://label.example.org", "other")
    for name in ("http://label.example.org", "http://localhost:8080"):
        assert media.load(f"{name}/data/local-files/?d=sub/a%20b.png", "1", "7").pixels.shape == (5, 7, 3)
    assert {path for path, _ in studio.requests} == {"/data/local-files/?d=sub/a%20b.png"}


def test_a_path_prefix_of_label_studio_is_kept_and_not_doubled() -> None:
    site = site_at("https://example.org/labels/")
    for address in ("/data/upload/1/a.png", "/labels/data/upload/1/a.png", "https://example.org/labels/data/upload/1/a.png"):
        found = locate(address, NOWHERE, lambda: site, None)
        assert isinstance(found, Remote)
        assert str(found.url) == "https://example.org/labels/data/upload/1/a.png"
        assert found.site == site


@pytest.mark.parametrize(
    "address",
    [
        "https://example.org//labels/data/upload/1/a.png",
        "https://example.org/labels//data/upload/1/a.png",
        "/labels//data/upload/1/a.png",
    ],
)
@pytest.mark.parametrize("alias", ["https://example.org/labels", "https://example.org//labels/"])
def test_slashes_that_a_path_prefix_brought_along_are_one(address: str, alias: str) -> None:
    found = locate(address, NOWHERE, lambda: site_at("http://inside:8080", alias=alias), None)
    assert isinstance(found, Remote)
    assert str(found.url) == "http://inside:8080/data/upload/1/a.png"


@pytest.mark.parametrize(
    "address",
    [
        "http://studio:8080@evil.example/a.png",
        "http://studio:8081/a.png",
        "https://studio:8080/a.png",
        "//evil.example/a.png",
        "http://studio.evil.example:8080/a.png",
        "http://127.0.0.1:9/a.png",
    ],
)
def test_an_address_that_only_looks_like_label_studio_gets_no_token(address: str) -> None:
    found = locate(address, NOWHERE, lambda: site_at("http://studio:8080", alias="http://localhost:8080"), None)
    assert isinstance(found, Remote)
    assert found.site is None


def test_an_object_of_cloud_storage_is_signed_by_label_studio_and_read_without_our_token(
    make_media: MakeMedia, studio: Studio, server: Server, png: bytes, pixels: NDArray[np.uint8]
) -> None:
    asked: list[str] = []

    def sign(request: Request) -> Answer:
        asked.append(request.path)
        return Answer(status=303, headers={"Location": f"{server.url}/bucket/cat.png?X-Amz-Signature=abc"})

    studio.pages["/tasks/42/presign/"] = sign
    server.serve("/bucket/cat.png", png)
    media = make_media(label_studio_url=studio.url, token=LEGACY_TOKEN)
    for uri in ("s3://bucket/cat ü.png", "gs://bucket/cat.png", "azure-blob://bucket/cat.png"):
        assert np.array_equal(media.load(uri, "1", "42").pixels, pixels)
        assert base64.urlsafe_b64decode(asked[-1].partition("?fileuri=")[2].replace("%3D", "=")).decode() == uri
    assert studio.sent("Authorization") == [f"Token {LEGACY_TOKEN}"] * 3
    assert server.sent("Authorization") == [None] * 3


def test_an_object_of_cloud_storage_needs_its_task(make_media: MakeMedia, studio: Studio) -> None:
    with pytest.raises(ImageError, match="names no task"):
        make_media(label_studio_url=studio.url).load("s3://bucket/cat.png", "1", None)


@pytest.mark.parametrize("address", ["ftp://host/a.png", "javascript:alert(1)", "C:\\images\\a.png"])
def test_an_unknown_kind_of_address_is_refused_with_the_kinds_that_are_known(address: str, make_media: MakeMedia) -> None:
    with pytest.raises(ImageError, match="are not read; use http"):
        make_media().load(address, "1", "7")


@pytest.mark.parametrize("address", ["", "  ", None, 5, "http://", "http://[::1", "http://a:port/"])
def test_no_address_or_a_malformed_one_is_refused(address: str, make_media: MakeMedia) -> None:
    with pytest.raises(ImageError, match="image of task 7"):
        make_media().load(address, "1", "7")


@pytest.mark.parametrize(
    "address", ["\0", "/a\nb.png", "/data/upload/1/\x7f.png", "/" + "a" * 70_000, "s3://bucket/" + "a" * 70_000]
)
def test_a_path_that_no_address_can_have_is_refused_in_words(address: str, make_media: MakeMedia, studio: Studio) -> None:
    with pytest.raises(ImageError, match="it is no valid address"):
        make_media(label_studio_url=studio.url, token=LEGACY_TOKEN).load(address, "1", "7")


def test_messages_show_neither_passwords_nor_signatures_nor_pictures() -> None:
    assert shown("https://me:secret@host/a.png?X-Amz-Signature=abc") == "https://host/a.png?..."
    assert shown("data:image/png;base64," + "A" * 10_000) == "data:image/png;base64,... (10022 characters)"
    assert shown("/data/local-files/?d=a.png") == "/data/local-files/?d=a.png"
    assert shown("/a\nb\x1b[31m.png") == "/a_b_[31m.png"
    assert len(shown("/" + "a" * 10_000)) < 200


def test_an_allowed_file_is_preferred_to_label_studio(tmp_path: Path, png: bytes) -> None:
    (tmp_path / "a.png").write_bytes(png)
    site = site_at("http://studio:8080")
    assert locate("/data/local-files/?d=a.png", Folders([tmp_path]), lambda: site, None) == LocalFile(
        (tmp_path / "a.png").resolve()
    )
    elsewhere = locate("/data/local-files/?d=b.png", Folders([tmp_path]), lambda: site, None)
    assert isinstance(elsewhere, Remote)
    assert str(elsewhere.url) == "http://studio:8080/data/local-files/?d=b.png"


@pytest.mark.parametrize(
    "address",
    [
        "/data/upload/8/x.png",
        "/ls/data/upload/8/x.png",
        "http://ls.example.com/ls/data/upload/8/x.png",
        "/ls/data/local-files/?d=a.png",
        "http://ls.example.com/ls/data/local-files/?d=a.png",
    ],
)
def test_a_label_studio_below_a_path_is_reached_at_an_address_of_its_own_without_it(address: str) -> None:
    """Label Studio calls itself http://ls.example.com/ls; behind its proxy it answers at the root."""
    inside, outside = read_base("http://10.0.0.5:8080"), read_base("http://ls.example.com/ls")
    assert inside is not None
    found = locate(address, Folders([]), lambda: Site(inside, outside, "token"), "1")
    assert isinstance(found, Remote)
    assert str(found.url) in ("http://10.0.0.5:8080/data/upload/8/x.png", "http://10.0.0.5:8080/data/local-files/?d=a.png")


@pytest.mark.parametrize(("on_disk", "asked"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_file_is_found_in_either_way_to_write_its_accents(tmp_path: Path, on_disk: str, asked: str) -> None:
    name = "Übergröße é.png"
    (tmp_path / unicodedata.normalize(on_disk, name)).write_bytes(b"")
    found = locate(f"/data/local-files/?d={unicodedata.normalize(asked, name)}", Folders([tmp_path]), lambda: None, "1")
    assert found == LocalFile((tmp_path / unicodedata.normalize(on_disk, name)).resolve())


def test_a_linked_folder_that_leads_out_of_ours_is_asked_of_label_studio_which_may_follow_it(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").write_bytes(b"")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "elsewhere")
    base = read_base("http://studio:8080")
    assert base is not None
    found = locate("/data/local-files/?d=linked/a.png", Folders([tmp_path / "root"]), lambda: Site(base), "1")
    assert isinstance(found, Remote)
    with pytest.raises(ImageError, match="does not lie under an allowed folder"):
        locate("/data/local-files/?d=linked/a.png", Folders([tmp_path / "root"]), lambda: None, "1")


@pytest.mark.parametrize("address", ["http:\\\\{host}\\a\\b.png", "http://{host}\\a\\b.png", "http://{host}/a\\b.png?c=\\d"])
def test_a_backslash_in_an_address_is_a_slash_as_in_browsers(
    address: str, make_media: MakeMedia, server: Server, png: bytes, pixels: NDArray[np.uint8]
) -> None:
    server.serve("/a/b.png", png)
    media = make_media()
    assert np.array_equal(media.load(address.format(host=server.url.removeprefix("http://")), "1", "7").pixels, pixels)
