from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import pytest

from backend.images.address import is_refresh_token, read_claims, usable_s
from backend.values.errors import RemoteError
from tests.backend.images.conftest import MakeMedia
from tests.backend.images.servers import LEGACY_TOKEN, Answer, Server, Studio, make_jwt

REFRESH = "/api/token/refresh/"


@pytest.fixture
def modern(png: bytes) -> Iterator[Studio]:
    """A Label Studio as it is by default: legacy tokens are disabled. Every picture has an address of its own."""
    made = Studio(legacy=False)
    for number in range(20):
        made.serve(f"/data/upload/1/{number}.png", png)
    yield made
    made.close()


def test_a_personal_access_token_is_exchanged_once_and_its_access_token_kept(make_media: MakeMedia, modern: Studio) -> None:
    media = make_media(label_studio_url=modern.url, token=modern.personal_token)
    for number in range(3):
        media.load(f"/data/upload/1/{number}.png", "1", "7")
    assert modern.count(REFRESH) == 1
    (access,) = modern.issued
    assert modern.sent("Authorization") == [None] + [f"Bearer {access}"] * 3


def test_an_access_token_is_exchanged_again_before_its_end(make_media: MakeMedia, modern: Studio) -> None:
    modern.lifetime_s, modern.grace_s = 1, 300
    media = make_media(label_studio_url=modern.url, token=modern.personal_token)
    media.load("/data/upload/1/0.png", "1", "7")
    time.sleep(1)
    modern.lifetime_s = 300
    for number in (1, 2):
        media.load(f"/data/upload/1/{number}.png", "1", "7")
    first, second = modern.issued
    assert modern.sent("Authorization") == [None, f"Bearer {first}", None, f"Bearer {second}", f"Bearer {second}"]


@pytest.mark.parametrize(("lifetime_s", "used_s"), [(300, 270), (3600, 3570), (10, 9)])
def test_an_access_token_is_used_until_shortly_before_its_end(lifetime_s: float, used_s: float) -> None:
    assert usable_s(make_jwt("access", lifetime_s)) == pytest.approx(used_s)


def test_an_access_token_that_does_not_tell_its_end_is_used_as_long_as_label_studios_usual_ones() -> None:
    assert usable_s("opaque") == 270


def test_a_revoked_access_token_is_renewed_once(make_media: MakeMedia, modern: Studio) -> None:
    media = make_media(label_studio_url=modern.url, token=modern.personal_token)
    media.load("/data/upload/1/0.png", "1", "7")
    modern.revoke()
    media.load("/data/upload/1/1.png", "1", "7")
    assert modern.count(REFRESH) == 2
    assert modern.count("/data/upload/1/1.png") == 2


def test_a_user_who_may_not_read_it_is_told_so_after_one_renewal(make_media: MakeMedia, modern: Studio) -> None:
    modern.pages["/data/upload/1/0.png"] = lambda request: Answer(b"{}", 403)
    media = make_media(label_studio_url=modern.url, token=modern.personal_token)
    with pytest.raises(RemoteError, match=r"image of task 7 .*403.*MASKLOOM_LABEL_STUDIO_TOKEN to a personal access token"):
        media.load("/data/upload/1/0.png", "1", "7")
    assert modern.count("/data/upload/1/0.png") == 2


def test_threads_that_need_an_access_token_share_one_exchange(make_media: MakeMedia, modern: Studio) -> None:
    modern.exchange_pause_s = 0.2
    media = make_media(label_studio_url=modern.url, token=modern.personal_token)
    pool = [threading.Thread(target=media.load, args=(f"/data/upload/1/{n}.png", "1", "7")) for n in range(8)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    assert modern.count(REFRESH) == 1
    assert len(modern.requests) == 9


def test_a_personal_access_token_that_was_revoked_is_named_as_the_cause(make_media: MakeMedia, modern: Studio) -> None:
    stale = make_jwt("refresh", 3600, number=9)
    with pytest.raises(RemoteError, match=r"does not exchange the personal access token.*MASKLOOM_LABEL_STUDIO_TOKEN") as told:
        make_media(label_studio_url=modern.url, token=stale).load("/data/upload/1/0.png", "1", "7")
    assert stale not in str(told.value)
    assert modern.count(REFRESH) == 1


def test_a_disabled_legacy_token_leads_to_the_advice_to_make_a_personal_one(make_media: MakeMedia, modern: Studio) -> None:
    media = make_media()
    media.register("1", modern.url, LEGACY_TOKEN)
    with pytest.raises(RemoteError, match=r"image of task 7 .*legacy tokens are disabled.*_TOKEN to a personal access") as told:
        media.load("/data/upload/1/0.png", "1", "7")
    assert LEGACY_TOKEN not in str(told.value)
    assert modern.count("/data/upload/1/0.png") == 1


def test_without_a_token_the_message_says_which_variables_to_set(make_media: MakeMedia, modern: Studio) -> None:
    with pytest.raises(RemoteError, match=r"no token is known.*MASKLOOM_LABEL_STUDIO_URL.*MASKLOOM_LABEL_STUDIO_TOKEN"):
        make_media(label_studio_url=modern.url).load("/data/upload/1/0.png", "1", "7")


def test_a_login_page_counts_as_a_refusal_and_not_as_a_broken_image(make_media: MakeMedia, studio: Studio, png: bytes) -> None:
    studio.pages["/data/a.png"] = lambda request: Answer(status=302, headers={"Location": "/user/login/?next=/data/a.png"})
    with pytest.raises(RemoteError, match="asks for a login"):
        make_media(label_studio_url=studio.url, token=LEGACY_TOKEN).load("/data/a.png", "1", "7")


def test_an_access_token_works_as_it_is_and_its_end_is_explained(make_media: MakeMedia, modern: Studio) -> None:
    access = make_jwt("access", 300)
    modern.issued[access] = time.monotonic() + 300
    media = make_media(label_studio_url=modern.url, token=access)
    media.load("/data/upload/1/0.png", "1", "7")
    modern.revoke()
    with pytest.raises(RemoteError, match="ends after 5 minutes"):
        media.load("/data/upload/1/1.png", "1", "7")
    assert modern.count(REFRESH) == 0


def test_an_exchange_is_repeated_while_label_studio_is_busy(make_media: MakeMedia, modern: Studio) -> None:
    busy = [Answer(status=503), Answer(status=429)]
    exchange = modern._exchange
    modern._exchange = lambda request: busy.pop() if busy else exchange(request)  # type: ignore[method-assign]
    make_media(label_studio_url=modern.url, token=modern.personal_token).load("/data/upload/1/0.png", "1", "7")
    assert modern.count(REFRESH) == 3


def test_the_personal_access_token_does_not_follow_a_redirect(make_media: MakeMedia, modern: Studio, server: Server) -> None:
    modern._exchange = lambda request: Answer(  # type: ignore[method-assign]
        status=307, headers={"Location": server.url + REFRESH}
    )
    with pytest.raises(RemoteError, match="MASKLOOM_LABEL_STUDIO_URL to its final address"):
        make_media(label_studio_url=modern.url, token=modern.personal_token).load("/data/upload/1/0.png", "1", "7")
    assert server.requests == []


@pytest.mark.parametrize("body", [b"", b"[]", b'{"access": 5}', b'{"access": "a\\nb"}', b"<html>"])
def test_a_senseless_answer_to_the_exchange_is_an_error_and_no_crash(
    body: bytes, make_media: MakeMedia, modern: Studio
) -> None:
    modern._exchange = lambda request: Answer(body)  # type: ignore[method-assign]
    with pytest.raises(RemoteError, match="does not exchange"):
        make_media(label_studio_url=modern.url, token=modern.personal_token).load("/data/upload/1/0.png", "1", "7")


def test_kinds_of_token_are_told_apart() -> None:
    assert is_refresh_token(make_jwt("refresh", 60))
    assert not is_refresh_token(make_jwt("access", 60))
    assert read_claims(make_jwt("access", 60))["token_type"] == "access"
    for other in (LEGACY_TOKEN, "a.b.c", "", "e30.e30.x", "W10.W10.x", "///.///.///"):
        assert not is_refresh_token(other)
        assert read_claims(other) == {}


def test_no_token_is_ever_logged(
    make_media: MakeMedia, modern: Studio, server: Server, caplog: pytest.LogCaptureFixture, png: bytes
) -> None:
    server.serve("/a.png", png)
    with caplog.at_level(logging.DEBUG):
        media = make_media(label_studio_url=modern.url, token=modern.personal_token)
        media.load("/data/upload/1/0.png", "1", "7")
        media.load(f"{server.url}/a.png?X-Amz-Signature=signed-secret", "1", "7")
    told = "\n".join(record.getMessage() for record in caplog.records)
    assert modern.personal_token not in told
    assert "signed-secret" not in told
    assert not any(access in told for access in modern.issued)
