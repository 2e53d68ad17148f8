"""Images are fetched once and decoded once, whoever asks, and asked for again when they may have changed."""

from __future__ import annotations

import io
import logging
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from backend import images
from backend.assemble import media_options
from backend.images import DecodedImages, _Newest, address, image_cache
from backend.images.fetch import Fetched, Validators
from backend.values.errors import ImageError
from backend.values.settings import Settings
from tests.backend.images.conftest import MakeMedia
from tests.backend.images.servers import LEGACY_TOKEN, Answer, Request, Server, Studio


def png_of(side: int) -> bytes:
    """A grey square."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), (128, 128, 128)).save(file, "PNG")
    return file.getvalue()


def test_an_upload_is_fetched_once_for_ever_and_by_all_processes(
    make_media: MakeMedia, studio: Studio, png: bytes, pixels: NDArray[np.uint8]
) -> None:
    """Label Studio names uploads by their content, so they never change."""
    studio.serve("/data/upload/1/a.png", png)
    for _ in range(2):
        media = make_media(label_studio_url=studio.url, token=LEGACY_TOKEN)
        for _ in range(3):
            assert np.array_equal(media.load("/data/upload/1/a.png", "1", "7").pixels, pixels)
    assert studio.count("/data/upload/1/a.png") == 1


def test_an_image_with_an_etag_is_asked_for_again_and_sent_only_when_it_changed(
    make_media: MakeMedia, server: Server, png: bytes
) -> None:
    version = ['"1"']

    def page(request: Request) -> Answer:
        if request.headers.get("If-None-Match") == version[0]:
            return Answer(status=304)
        return Answer(png if version[0] == '"1"' else png_of(9), headers={"ETag": version[0]})

    server.pages["/a.png"] = page
    media = make_media()
    url = server.url + "/a.png"
    assert [media.load(url, "1", "7").pixels.shape for _ in range(3)] == [(5, 7, 3)] * 3
    assert server.sent("If-None-Match") == [None, '"1"', '"1"']
    version[0] = '"2"'
    assert media.load(url, "1", "7").pixels.shape == (9, 9, 3)
    assert server.sent("If-None-Match")[3:] == ['"1"']
    assert media.load(url, "1", "7").pixels.shape == (9, 9, 3)
    assert server.sent("If-None-Match")[4:] == ['"2"']


def test_an_image_with_a_date_is_asked_for_again(make_media: MakeMedia, server: Server, png: bytes) -> None:
    date = "Sat, 21 Nov 2026 00:00:00 GMT"
    server.pages["/a.png"] = lambda request: (
        Answer(status=304) if request.headers.get("If-Modified-Since") == date else Answer(png, headers={"Last-Modified": date})
    )
    media = make_media()
    for _ in range(2):
        assert media.load(server.url + "/a.png", "1", "7").pixels.shape == (5, 7, 3)
    assert server.sent("If-Modified-Since") == [None, date]


def test_an_image_without_either_is_used_again_for_a_minute(
    make_media: MakeMedia, server: Server, png: bytes, tmp_path: Path
) -> None:
    server.serve("/a.png", png)
    media = make_media()
    for _ in range(3):
        media.load(server.url + "/a.png", "1", "7")
    assert server.count("/a.png") == 1
    (kept,) = (tmp_path / "cache").iterdir()
    os.utime(kept, (time.time(), time.time() - 61))
    server.serve("/a.png", png_of(9))
    assert media.load(server.url + "/a.png", "1", "7").pixels.shape == (9, 9, 3)


def test_an_answer_of_unchanged_that_nobody_asked_for_is_an_error(make_media: MakeMedia, server: Server) -> None:
    server.pages["/a.png"] = lambda request: Answer(status=304)
    with pytest.raises(Exception, match="answered 304"):
        make_media().load(server.url + "/a.png", "1", "7")


def test_threads_that_want_one_image_at_once_cause_one_request(
    make_media: MakeMedia, server: Server, png: bytes, pixels: NDArray[np.uint8]
) -> None:
    released = threading.Event()
    server.pages["/a.png"] = lambda request: Answer(png, status=200 if released.wait(20) else 404)
    media = make_media(cache_bytes=0)
    images: list[NDArray[np.uint8]] = []
    pool = [
        threading.Thread(target=lambda: images.append(media.load(server.url + "/a.png", "1", "7").pixels)) for _ in range(8)
    ]
    for thread in pool:
        thread.start()
    time.sleep(0.5)
    released.set()
    for thread in pool:
        thread.join()
    assert server.count("/a.png") == 1
    assert len(images) == 8
    assert all(np.array_equal(image, pixels) for image in images)


def test_a_failed_fetch_fails_every_waiter_with_its_own_task_and_is_tried_next_time(
    make_media: MakeMedia, server: Server, png: bytes
) -> None:
    released = threading.Event()
    server.pages["/a.png"] = lambda request: Answer(status=404 if released.wait(20) else 500)
    media = make_media()
    told: dict[str, str] = {}

    def ask(task: str) -> None:
        try:
            media.load(server.url + "/a.png", "1", task)
        except Exception as error:
            told[task] = str(error)

    pool = [threading.Thread(target=ask, args=(str(task),)) for task in range(5)]
    for thread in pool:
        thread.start()
    time.sleep(0.5)
    released.set()
    for thread in pool:
        thread.join()
    assert server.count("/a.png") == 1
    assert all(f"image of task {task} " in told[task] for task in map(str, range(5)))
    server.serve("/a.png", png)
    assert media.load(server.url + "/a.png", "1", "7").pixels.shape == (5, 7, 3)


def test_a_broken_image_is_not_kept(make_media: MakeMedia, studio: Studio, png: bytes) -> None:
    studio.serve("/data/upload/1/a.png", png[:60])
    media = make_media(label_studio_url=studio.url, token=LEGACY_TOKEN)
    with pytest.raises(Exception, match="broken or cut short"):
        media.load("/data/upload/1/a.png", "1", "7")
    studio.serve("/data/upload/1/a.png", png)
    assert media.load("/data/upload/1/a.png", "1", "7").pixels.shape == (5, 7, 3)


def test_a_damaged_cache_file_is_fetched_again(make_media: MakeMedia, studio: Studio, png: bytes, tmp_path: Path) -> None:
    studio.serve("/data/upload/1/a.png", png)
    media = make_media(label_studio_url=studio.url, token=LEGACY_TOKEN)
    media.load("/data/upload/1/a.png", "1", "7")
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_bytes(kept.read_bytes()[:-5])
    assert media.load("/data/upload/1/a.png", "1", "7").pixels.shape == (5, 7, 3)
    assert studio.count("/data/upload/1/a.png") == 2


@pytest.mark.parametrize("obstacle", ["a file in its place", "a folder in the file's place", "no right to write"])
def test_a_cache_folder_that_cannot_be_used_costs_only_speed(
    obstacle: str, make_media: MakeMedia, studio: Studio, png: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "cache"
    if obstacle == "a file in its place":
        folder.write_text("not a folder")
    elif obstacle == "no right to write":
        folder = Path("/proc/maskloom")
    else:
        studio.serve("/data/upload/1/a.png", png)
        make_media(label_studio_url=studio.url, token=LEGACY_TOKEN).load("/data/upload/1/a.png", "1", "7")
        (kept,) = folder.iterdir()
        kept.unlink()
        (kept / "inside").mkdir(parents=True)
    studio.serve("/data/upload/1/a.png", png)
    media = make_media(label_studio_url=studio.url, token=LEGACY_TOKEN, cache_dir=folder)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert media.load("/data/upload/1/a.png", "1", "7").pixels.shape == (5, 7, 3)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(folder) in caplog.text


def test_names_in_the_cache_give_nothing_away(make_media: MakeMedia, server: Server, png: bytes, tmp_path: Path) -> None:
    server.serve("/cat.png", png)
    address = server.url.replace("http://", "http://me:password@") + "/cat.png?X-Amz-Signature=signature"
    make_media().load(address, "1", "7")
    (kept,) = (tmp_path / "cache").iterdir()
    content = kept.name.encode() + kept.read_bytes().replace(png, b"")
    assert not any(word in content for word in (b"cat", b"password", b"signature", b"127.0.0.1"))


def test_the_same_path_of_two_label_studios_is_two_images(make_media: MakeMedia, studio: Studio, png: bytes) -> None:
    other = Studio()
    try:
        studio.serve("/data/upload/1/a.png", png)
        other.serve("/data/upload/1/a.png", png_of(9))
        media = make_media()
        media.register("1", studio.url, LEGACY_TOKEN)
        media.register("2", other.url, LEGACY_TOKEN)
        assert media.load("/data/upload/1/a.png", "1", "7").pixels.shape == (5, 7, 3)
        assert media.load("/data/upload/1/a.png", "2", "7").pixels.shape == (9, 9, 3)
    finally:
        other.close()


def test_nothing_is_written_before_the_first_image(make_media: MakeMedia, tmp_path: Path) -> None:
    make_media(label_studio_url="http://studio:8080", token=LEGACY_TOKEN)
    assert not (tmp_path / "cache").exists()


def test_what_was_put_comes_back_with_its_validators(tmp_path: Path) -> None:
    fetched = Fetched(b"line\nline\n\x00", Validators(etag='W/"1"', last_modified="Sat, 21 Nov 2026 00:00:00 GMT"))
    image_cache(tmp_path / "new" / "folder", 10_000).put("a", fetched)
    cache = image_cache(tmp_path / "new" / "folder", 10_000)
    assert cache.get("a") == fetched
    assert 0 <= cache.age_s("a") < 5


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]\n", b"null\nbody", b'{"digest": "x", "more": 1}\n', b"\xff\xfe"])
def test_a_damaged_file_is_as_good_as_none(damage: bytes, tmp_path: Path) -> None:
    cache = image_cache(tmp_path, 10_000)
    cache.put("a", Fetched(bytes(100), Validators()))
    cache.path("a").write_bytes(damage)
    assert cache.get("a") is None
    cache.put("a", Fetched(bytes(100), Validators()))
    assert cache.get("a") is not None


SIZE = 10 * 10 * 3


def file_of(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (10, 10), value).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The grey of every image that is really decoded."""
    seen: list[int] = []
    real = images.decode_image

    def watched(body: bytes, most_pixels: int, bands: tuple[int, ...]) -> np.ndarray:
        image = real(body, most_pixels)
        seen.append(int(image[0, 0, 0]))
        return image

    monkeypatch.setattr(images, "decode_image", watched)
    return seen


def test_one_file_is_decoded_once(decodings: list[int]) -> None:
    images = DecodedImages(10 * SIZE, 1000)
    for _ in range(3):
        assert images.decode(file_of(7)).pixels[5, 5].tolist() == [7, 7, 7]
    assert decodings == [7]


def test_the_bytes_are_bounded_and_the_least_recently_used_image_goes_first(decodings: list[int]) -> None:
    images = DecodedImages(2 * SIZE, 1000)
    for value in (1, 2, 1, 3, 1, 2):
        images.decode(file_of(value))
        assert images.nbytes <= 2 * SIZE
    assert decodings == [1, 2, 3, 2]


def test_no_room_means_that_every_time_is_the_first(decodings: list[int]) -> None:
    images = DecodedImages(SIZE - 1, 1000)
    for _ in range(2):
        assert images.decode(file_of(7)).pixels.shape == (10, 10, 3)
    assert decodings == [7, 7]


def test_a_file_that_cannot_be_decoded_is_an_error_every_time() -> None:
    images = DecodedImages(10 * SIZE, 1000)
    for _ in range(2):
        with pytest.raises(ImageError):
            images.decode(file_of(7)[:40])


def test_shared_arrays_cannot_be_written_to() -> None:
    image = DecodedImages(10 * SIZE, 1000).decode(file_of(7)).pixels
    with pytest.raises(ValueError, match="read-only"):
        image[0, 0] = 0


def test_every_caller_of_media_gets_the_same_pixels_with_the_key_of_their_file(make_media: MakeMedia, server: Server) -> None:
    server.serve("/a.png", file_of(7))
    server.serve("/b.png", file_of(8))
    media = make_media()
    first, again, other = (media.load(server.url + name, "1", "7") for name in ("/a.png", "/a.png", "/b.png"))
    assert first.pixels is again.pixels
    assert first.pixels.flags.c_contiguous
    assert not first.pixels.flags.writeable
    assert first.key == again.key != other.key


def test_an_address_whose_image_changed_shows_the_new_one(make_media: MakeMedia, server: Server) -> None:
    media = make_media(cache_bytes=0)
    for value in (7, 8):
        server.serve("/a.png", file_of(value))
        assert media.load(server.url + "/a.png", "1", "7").pixels.max() == value


def test_a_file_here_is_read_once_until_it_changes(
    make_media: MakeMedia, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    whole = images.read_file
    monkeypatch.setattr(images, "read_file", lambda path, most: (read.append(path), whole(path, most))[1])
    monkeypatch.setattr(address, "SETTLED_S", 0)
    media, path = make_media(local_roots=(tmp_path,)), tmp_path / "a.png"
    for value in (7, 8):
        path.write_bytes(file_of(value))
        os.utime(path, ns=(value, value))
        assert {media.load(str(path), "1", "7").pixels.max() for _ in range(3)} == {value}
    assert len(read) == 2


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_file_here_that_is_written_again_at_once_shows_what_is_in_it_now(
    make_media: MakeMedia, tmp_path: Path, is_kept: bool
) -> None:
    """As many bytes within one tick of the clock, or with the time of before, as ``cp -p`` and archives keep it."""
    media, path = make_media(local_roots=(tmp_path,)), tmp_path / "a.bmp"
    bodies = [io.BytesIO() for _ in range(50)]
    for value, body in enumerate(bodies):
        Image.new("RGB", (10, 10), (value,) * 3).save(body, "BMP")
    for value, body in enumerate(bodies):
        path.write_bytes(body.getvalue())
        if is_kept:
            os.utime(path, (1e9, 1e9))
        assert media.load(str(path), "1", "7").pixels.max() == value


def test_what_a_file_is_known_by_is_not_told_while_its_next_change_may_look_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(file_of(7))
    os.utime(path, (1e9, 1e9))
    assert address.state_of(path) is None, "its time can be set, that of the last change cannot"
    monkeypatch.setattr(address.time, "time_ns", lambda: path.stat().st_ctime_ns + 3 * 10**9)
    assert address.state_of(path) is not None


def test_threads_on_many_images_never_get_another_one() -> None:
    images = DecodedImages(3 * SIZE, 1000)
    files = [file_of(value) for value in range(8)]
    wrong: list[int] = []

    def work(seed: int) -> None:
        asked = np.random.default_rng(seed).integers(0, 8, 100).tolist()
        wrong.extend(value for value in asked if images.decode(files[value]).pixels[0, 0, 0] != value)

    pool = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    assert wrong == []
    assert images.nbytes <= 3 * SIZE


def test_an_image_of_another_host_is_known_once_it_was_asked_for_and_over_restarts(
    make_media: MakeMedia, server: Server, studio: Studio, png: bytes
) -> None:
    server.serve("/a.png", png)
    media = make_media(label_studio_url=studio.url)
    assert media.knows("data:image/png;base64,", "1")
    assert media.knows("/data/upload/1/a.png", "1")
    assert media.knows(f"{studio.url}/data/upload/1/a.png", "1")
    assert not media.knows(f"{server.url}/a.png", "1")
    assert not server.requests
    media.load(f"{server.url}/a.png", "1", "7")
    assert media.knows(f"{server.url}/a.png", "1")
    assert not media.knows(f"{server.url}/b.png", "1")
    assert make_media().knows(f"{server.url}/a.png", "1")


def test_the_addresses_that_were_asked_for_are_bounded() -> None:
    asked = _Newest(2)
    for name in ("a", "b", "a", "c"):
        asked.put(name)
    assert [name in asked for name in "abc"] == [True, False, True]


@pytest.mark.parametrize(("encoded", "decoded"), [(1, 64), (64, 64), (300, 150), (512, 256), (8192, 256)])
def test_whoever_gives_encoded_images_less_memory_gives_decoded_ones_less_too(
    tmp_path: Path, encoded: int, decoded: int
) -> None:
    """They once took 256 MiB of a server that was told to keep 64."""
    assert media_options(Settings(home=tmp_path, feature_cache_mib=encoded)).decoded_bytes == decoded << 20
