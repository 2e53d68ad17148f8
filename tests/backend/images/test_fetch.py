from __future__ import annotations

import base64
import email.utils
import gzip
import itertools
import socket
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.values.errors import ImageError, RemoteError
from tests.backend.images.conftest import MakeMedia
from tests.backend.images.servers import LEGACY_TOKEN, Answer, Page, Request, Server, Studio


def one_after_the_other(*answers: Answer) -> Page:
    """A page that gives each answer once and then the last one for ever."""
    left = list(answers)
    return lambda request: left.pop(0) if len(left) > 1 else left[0]


def test_an_image_of_the_web_is_fetched_without_any_token(
    make_media: MakeMedia, studio: Studio, server: Server, png: bytes, pixels: NDArray[np.uint8]
) -> None:
    server.serve("/a.png", png)
    media = make_media(label_studio_url=studio.url, token=LEGACY_TOKEN, user_agent="maskloom/test")
    assert np.array_equal(media.load(server.url + "/a.png", "1", "7").pixels, pixels)
    assert server.sent("Authorization") == [None]
    assert server.sent("User-Agent") == ["maskloom/test"]
    assert studio.requests == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_is_followed_without_the_token(
    status: int, make_media: MakeMedia, studio: Studio, server: Server, png: bytes, pixels: NDArray[np.uint8]
) -> None:
    studio.pages["/data/upload/1/a.png"] = lambda request: Answer(status=status, headers={"Location": server.url + "/b.png"})
    server.serve("/b.png", png)
    media = make_media(label_studio_url=studio.url, token=LEGACY_TOKEN)
    assert np.array_equal(media.load("/data/upload/1/a.png", "1", "7").pixels, pixels)
    assert studio.sent("Authorization") == [f"Token {LEGACY_TOKEN}"]
    assert server.sent("Authorization") == [None]


def test_a_redirect_within_label_studio_keeps_the_token(make_media: MakeMedia, studio: Studio, png: bytes) -> None:
    studio.pages["/data/upload/1/a.png"] = lambda request: Answer(status=302, headers={"Location": "/media/a.png"})
    studio.serve("/media/a.png", png)
    assert make_media(label_studio_url=studio.url, token=LEGACY_TOKEN).load("/data/upload/1/a.png", "1", "7").pixels.shape == (
        5,
        7,
        3,
    )
    assert studio.sent("Authorization") == [f"Token {LEGACY_TOKEN}"] * 2


def test_a_redirect_from_elsewhere_to_label_studio_gets_no_token(
    make_media: MakeMedia, studio: Studio, server: Server, png: bytes
) -> None:
    server.pages["/a.png"] = lambda request: Answer(status=302, headers={"Location": studio.url + "/data/upload/1/a.png"})
    studio.serve("/data/upload/1/a.png", png)
    with pytest.raises(ImageError, match="sends no credentials"):
        make_media(label_studio_url=studio.url, token=LEGACY_TOKEN).load(server.url + "/a.png", "1", "7")
    assert studio.sent("Authorization") == [None]


def test_another_host_cannot_send_the_token_to_a_page_of_its_choice(
    make_media: MakeMedia, studio: Studio, server: Server, png: bytes
) -> None:
    studio.pages["/data/upload/1/a.png"] = lambda request: Answer(status=302, headers={"Location": server.url + "/b.png"})
    server.pages["/b.png"] = lambda request: Answer(status=302, headers={"Location": studio.url + "/api/secret"})
    studio.serve("/api/secret", png)
    with pytest.raises(RemoteError, match="401"):
        make_media(label_studio_url=studio.url, token=LEGACY_TOKEN).load("/data/upload/1/a.png", "1", "7")
    assert studio.sent("Authorization") == [f"Token {LEGACY_TOKEN}", None]


def test_cookies_of_one_answer_are_not_sent_with_the_next_request(make_media: MakeMedia, studio: Studio, png: bytes) -> None:
    studio.serve("/data/upload/1/a.png", png, Set_Cookie="sessionid=someone; Path=/")
    studio.serve("/data/upload/1/b.png", png)
    media = make_media(label_studio_url=studio.url, token=LEGACY_TOKEN)
    for name in "ab":
        media.load(f"/data/upload/1/{name}.png", "1", "7")
    assert studio.sent("Cookie") == [None, None]


def test_redirects_in_a_circle_end(make_media: MakeMedia, server: Server) -> None:
    server.pages["/a.png"] = lambda request: Answer(status=302, headers={"Location": "/a.png"})
    with pytest.raises(ImageError, match="redirects more than 5 times"):
        make_media().load(server.url + "/a.png", "1", "7")
    assert server.count("/a.png") == 6


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://host/a.png", "javascript:alert(1)"])
def test_a_redirect_leads_only_to_the_web(target: str, make_media: MakeMedia, server: Server) -> None:
    server.pages["/a.png"] = lambda request: Answer(status=302, headers={"Location": target})
    with pytest.raises(ImageError, match="which is not read"):
        make_media(local_roots=("/",)).load(server.url + "/a.png", "1", "7")


def test_a_redirect_to_an_image_in_the_address_itself_is_that_image(
    make_media: MakeMedia, server: Server, png: bytes, pixels: NDArray[np.uint8]
) -> None:
    inline = "data:image/png;base64," + base64.b64encode(png).decode()
    server.pages["/a.png"] = lambda request: Answer(status=302, headers={"Location": inline})
    assert np.array_equal(make_media().load(server.url + "/a.png", "1", "7").pixels, pixels)


def test_a_redirect_to_a_broken_image_in_the_address_is_refused(make_media: MakeMedia, server: Server) -> None:
    server.pages["/a.png"] = lambda request: Answer(status=302, headers={"Location": "data:image/png;base64,@@"})
    with pytest.raises(ImageError, match="base64"):
        make_media().load(server.url + "/a.png", "1", "7")


@pytest.mark.parametrize("status", [404, 410])
def test_what_is_not_there_is_not_tried_again(status: int, make_media: MakeMedia, server: Server) -> None:
    server.pages["/a.png"] = lambda request: Answer(status=status)
    with pytest.raises(ImageError, match=rf"image of task 7 .*/a.png: 127.0.0.1 has no such file \({status}\)"):
        make_media().load(server.url + "/a.png", "1", "7")
    assert server.count("/a.png") == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_foreign_host_that_wants_credentials_gets_none(status: int, make_media: MakeMedia, server: Server) -> None:
    server.pages["/a.png"] = lambda request: Answer(status=status)
    with pytest.raises(ImageError, match="sends no credentials to other hosts"):
        make_media().load(server.url + "/a.png", "1", "7")


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(
    status: int, make_media: MakeMedia, server: Server, png: bytes, pixels: NDArray[np.uint8]
) -> None:
    server.pages["/a.png"] = one_after_the_other(Answer(status=status), Answer(status=status), Answer(png))
    assert np.array_equal(make_media().load(server.url + "/a.png", "1", "7").pixels, pixels)
    assert server.count("/a.png") == 3


def test_label_studios_500_for_a_deleted_upload_is_explained(make_media: MakeMedia, studio: Studio) -> None:
    studio.pages["/data/upload/1/a.png"] = lambda request: Answer(status=500)
    media = make_media(label_studio_url=studio.url, token=LEGACY_TOKEN)
    with pytest.raises(RemoteError, match="answered 500, as it also does for an upload that was deleted") as told:
        media.load("/data/upload/1/a.png", "1", "7")
    assert told.value.status == 500


def test_patience_with_a_busy_server_ends(make_media: MakeMedia, server: Server) -> None:
    server.pages["/a.png"] = lambda request: Answer(status=503)
    with pytest.raises(RemoteError, match=r"127.0.0.1 answered 503 \(tried 4 times\)"):
        make_media().load(server.url + "/a.png", "1", "7")
    assert server.count("/a.png") == 4


def test_the_pause_that_a_server_asks_for_is_kept(make_media: MakeMedia, server: Server, png: bytes) -> None:
    server.pages["/a.png"] = one_after_the_other(Answer(status=429, headers={"Retry-After": "1"}), Answer(png))
    began = time.monotonic()
    make_media().load(server.url + "/a.png", "1", "7")
    assert time.monotonic() - began >= 1
    assert server.count("/a.png") == 2


@pytest.mark.parametrize("asked", ["3600", email.utils.formatdate(4102444800, usegmt=True)])
def test_a_pause_beyond_our_patience_is_not_waited_for(asked: str, make_media: MakeMedia, server: Server) -> None:
    server.pages["/a.png"] = lambda request: Answer(status=429, headers={"Retry-After": asked})
    with pytest.raises(RemoteError, match="answered 429") as told:
        make_media().load(server.url + "/a.png", "1", "7")
    assert told.value.after_s is not None
    assert told.value.after_s >= 3600
    assert server.count("/a.png") == 1


def test_a_server_that_nobody_runs_is_named(make_media: MakeMedia) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(RemoteError, match=r"127.0.0.1 cannot be read: .*refused \(tried 4 times\)"):
        make_media().load(f"http://127.0.0.1:{port}/a.png", "1", "7")
    media = make_media()
    media.register("1", f"http://localhost:{port}", LEGACY_TOKEN)
    with pytest.raises(RemoteError, match=r"if it runs on another machine, set MASKLOOM_LABEL_STUDIO_URL"):
        media.load("/data/upload/1/a.png", "1", "7")


def test_a_server_that_comes_back_in_time_is_read(make_media: MakeMedia, server: Server, png: bytes) -> None:
    def hang_up(request: Request) -> Answer:
        request.connection.shutdown(socket.SHUT_RDWR)
        return Answer()

    pages = itertools.chain([hang_up, hang_up], itertools.repeat(lambda request: Answer(png)))
    server.pages["/a.png"] = lambda request: next(pages)(request)
    assert make_media().load(server.url + "/a.png", "1", "7").pixels.shape == (5, 7, 3)
    assert server.count("/a.png") == 3


def test_a_silent_server_costs_no_more_than_the_timeouts(make_media: MakeMedia, server: Server) -> None:
    released = threading.Event()

    def wait(request: Request) -> Answer:
        released.wait(20)
        return Answer(status=404)

    server.pages["/a.png"] = wait
    began = time.monotonic()
    with pytest.raises(RemoteError, match="did not answer in time"):
        make_media(read_timeout_s=0.2, total_timeout_s=1).load(server.url + "/a.png", "1", "7")
    assert time.monotonic() - began < 10
    released.set()


@pytest.fixture
def dripping() -> Iterator[str]:
    """A server that sends one byte of a promised megabyte every 50 ms, for ever."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while not ended.wait(0.05):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/a.png"
    ended.set()
    thread.join()
    listener.close()


def test_a_dripping_server_costs_no_more_than_the_whole_time(dripping: str, make_media: MakeMedia) -> None:
    began = time.monotonic()
    with pytest.raises(RemoteError, match=r"did not arrive within 0\.5 s"):
        make_media(total_timeout_s=0.5).load(dripping, "1", "7")
    assert time.monotonic() - began < 10


def test_a_body_that_ends_before_its_length_is_fetched_again(
    make_media: MakeMedia, server: Server, png: bytes, pixels: NDArray[np.uint8]
) -> None:
    cut = Answer(png[:-10], content_length=len(png))
    server.pages["/a.png"] = one_after_the_other(cut, cut, Answer(png))
    assert np.array_equal(make_media().load(server.url + "/a.png", "1", "7").pixels, pixels)


def test_a_body_that_always_ends_too_early_is_an_error_and_is_not_kept(
    make_media: MakeMedia, server: Server, png: bytes
) -> None:
    server.pages["/a.png"] = lambda request: Answer(png[:-10], content_length=len(png))
    media = make_media()
    with pytest.raises(RemoteError, match=rf"received {len(png) - 10} bytes, expected {len(png)}"):
        media.load(server.url + "/a.png", "1", "7")
    server.serve("/a.png", png)
    assert media.load(server.url + "/a.png", "1", "7").pixels.shape == (5, 7, 3)


def test_a_body_of_unknown_length_that_was_cut_is_a_broken_image(make_media: MakeMedia, server: Server, png: bytes) -> None:
    server.pages["/a.png"] = lambda request: Answer(png[: len(png) // 2], content_length=None)
    with pytest.raises(ImageError, match="broken or cut short"):
        make_media().load(server.url + "/a.png", "1", "7")


def test_an_announced_length_above_the_limit_is_refused_without_reading(make_media: MakeMedia, server: Server) -> None:
    server.pages["/a.png"] = lambda request: Answer(b"", content_length=10_000_000)
    with pytest.raises(ImageError, match="larger than the limit of 1,000 bytes; raise MASKLOOM_MAX_IMAGE_MIB"):
        make_media(max_bytes=1000).load(server.url + "/a.png", "1", "7")
    assert server.count("/a.png") == 1


@pytest.mark.parametrize("length", [None, 4_000_000])
def test_a_body_above_the_limit_is_refused_while_it_arrives(length: int | None, make_media: MakeMedia, server: Server) -> None:
    server.pages["/a.png"] = lambda request: Answer(b"x" * 4_000_000, content_length=length)
    with pytest.raises(ImageError, match="larger than the limit"):
        make_media(max_bytes=100_000).load(server.url + "/a.png", "1", "7")


def test_a_small_body_that_unpacks_to_a_large_one_is_refused(make_media: MakeMedia, server: Server) -> None:
    server.serve("/a.png", gzip.compress(bytes(5_000_000)), Content_Encoding="gzip")
    with pytest.raises(ImageError, match="larger than the limit"):
        make_media(max_bytes=100_000).load(server.url + "/a.png", "1", "7")


def test_a_body_above_the_limit_by_one_byte_is_refused_and_one_at_the_limit_is_read(
    make_media: MakeMedia, server: Server, png: bytes
) -> None:
    server.serve("/a.png", png)
    assert make_media(max_bytes=len(png), cache_bytes=0).load(server.url + "/a.png", "1", "7").pixels.shape == (5, 7, 3)
    with pytest.raises(ImageError, match="larger than the limit"):
        make_media(max_bytes=len(png) - 1, cache_bytes=0).load(server.url + "/a.png", "1", "7")


def test_a_web_page_in_place_of_an_image_is_recognised(make_media: MakeMedia, server: Server) -> None:
    server.serve("/a.png", b"<!DOCTYPE html><html><body>Welcome</body></html>")
    with pytest.raises(ImageError, match="web page, not an image"):
        make_media().load(server.url + "/a.png", "1", "7")
