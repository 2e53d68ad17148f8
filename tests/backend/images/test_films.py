"""Video files over a network that breaks: whole or not at all, within their limits, and with what happened in a sentence."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backend.values.errors import RemoteError, VideoError
from tests.backend.images.conftest import MakeMedia
from tests.backend.images.servers import LEGACY_TOKEN, Answer, Server, Studio

FILM = bytes(range(256)) * 4000


def kept(tmp_path: Path) -> list[Path]:
    """Every file that fetching left behind."""
    return [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_film_is_fetched_with_the_token_of_its_label_studio_once_for_all(make_media: MakeMedia, studio: Studio) -> None:
    studio.serve("/data/upload/1/a.mp4", FILM)
    media = make_media(label_studio_url=studio.url, token=LEGACY_TOKEN)

    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: media.film("/data/upload/1/a.mp4", "1", "7"), range(4)))

    assert {path.read_bytes() for path in paths} == {FILM}
    assert media.film("/data/upload/1/a.mp4", "1", "8") == paths[0]
    assert studio.count("/data/upload/1/a.mp4") == 1
    assert studio.sent("Authorization") == [f"Token {LEGACY_TOKEN}"]


def test_a_film_that_breaks_off_is_asked_for_again_and_nothing_of_it_is_kept(
    make_media: MakeMedia, server: Server, tmp_path: Path
) -> None:
    halves = Answer(body=FILM[: len(FILM) // 2], content_length=len(FILM))
    server.pages["/a.mp4"] = lambda request: halves
    media = make_media(first_wait_s=0.01)

    with pytest.raises(RemoteError, match=r"the video of task 7 cannot be had, http.*tried 4 times"):
        media.film(server.url + "/a.mp4", "1", "7")

    assert kept(tmp_path) == []
    server.serve("/a.mp4", FILM)
    assert media.film(server.url + "/a.mp4", "1", "7").read_bytes() == FILM


def test_a_film_above_the_limit_is_refused_with_the_setting_to_raise(
    make_media: MakeMedia, server: Server, tmp_path: Path
) -> None:
    server.serve("/a.mp4", FILM)
    (tmp_path / "b.mp4").write_bytes(FILM)
    media = make_media(max_film_bytes=len(FILM) - 1, local_roots=(tmp_path,))

    for url in (server.url + "/a.mp4", str(tmp_path / "b.mp4")):
        with pytest.raises(VideoError, match="MASKLOOM_MAX_FILM_MIB"):
            media.film(url, "1", "7")
    assert kept(tmp_path) == [tmp_path / "b.mp4"]


def test_fetched_films_take_no_more_room_than_they_may(make_media: MakeMedia, server: Server, tmp_path: Path) -> None:
    media = make_media(film_cache_bytes=2 * len(FILM))
    paths = []
    for name in ("a", "b", "c"):
        server.serve(f"/{name}.mp4", FILM)
        paths.append(media.film(f"{server.url}/{name}.mp4", "1", "7"))
        os.utime(paths[-1], (len(paths), paths[-1].stat().st_mtime))

    assert [path.exists() for path in paths] == [False, True, True]


def test_a_film_is_read_only_where_images_are(make_media: MakeMedia, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(FILM)
    (tmp_path / "out.mp4").write_bytes(FILM)
    media = make_media(local_roots=(tmp_path / "in",))

    assert media.film(str(tmp_path / "in" / "a.mp4"), "1", "7") == tmp_path / "in" / "a.mp4"
    for url in (str(tmp_path / "out.mp4"), "data:video/mp4;base64,AAAA", "ftp://a/b.mp4", f"{tmp_path}/in/../out.mp4", ""):
        with pytest.raises((VideoError, RemoteError), match="the video of task 7 cannot be had"):
            media.film(url, "1", "7")
    with pytest.raises(VideoError, match="no plain file"):
        media.film(str(tmp_path / "in"), "1", "7")
