from __future__ import annotations

import io
import threading

import numpy as np
import pytest
from PIL import Image

from backend.images import cache as decoded
from backend.images.cache import DecodedImages
from backend.values.errors import ImageError
from tests.backend.images.conftest import MakeMedia
from tests.backend.images.servers import Server

SIZE = 10 * 10 * 3


def file_of(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (10, 10), value).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The grey of every image that is really decoded."""
    seen: list[int] = []
    real = decoded.decode_image

    def watched(body: bytes, most_pixels: int) -> np.ndarray:
        image = real(body, most_pixels)
        seen.append(int(image[0, 0, 0]))
        return image

    monkeypatch.setattr(decoded, "decode_image", watched)
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
