"""Which Label Studio a project belongs to, which token it gets, and what becomes of the token."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from backend.images.sites import MOST_PROJECTS, Sites, is_loopback, is_refresh_token, read_claims, same_origin, usable_s
from backend.values.errors import RemoteError, SetupError
from tests.backend.images.conftest import MakeMedia
from tests.backend.images.servers import LEGACY_TOKEN, Answer, Server, Studio, make_jwt


def seen(sites: Sites, project: str = "1") -> tuple[str, str | None]:
    """Where a project's Label Studio is, and with which token."""
    site = sites.of(project)
    return (str(site.base).rstrip("/"), site.token) if site else ("", None)


def test_our_own_address_comes_before_the_one_that_setup_announces() -> None:
    sites = Sites("http://studio:8080", "mine")
    sites.register("1", "https://label.example.org", "theirs")
    assert seen(sites) == ("http://studio:8080", "mine")
    assert seen(sites, "never registered") == ("http://studio:8080", "mine")


def test_our_own_address_without_a_token_uses_the_one_of_setup() -> None:
    sites = Sites("http://studio:8080", None)
    sites.register("1", "http://localhost:8080", "theirs")
    assert seen(sites) == ("http://studio:8080", "theirs")


def test_our_own_token_is_not_handed_to_whoever_announces_an_address() -> None:
    """Anybody who can reach /setup could otherwise announce a host of theirs and be sent the token."""
    sites = Sites(None, "mine")
    sites.register("1", "https://evil.example", "bait")
    assert seen(sites) == ("https://evil.example", "bait")
    sites.register("2", "http://localhost:8080", "theirs")
    assert seen(sites, "2") == ("http://localhost:8080", "mine")


def test_projects_of_several_label_studios_do_not_mix() -> None:
    sites = Sites(None, None)
    sites.register("1", "https://one.example", "a")
    sites.register("2", "https://two.example", "b")
    assert seen(sites, "1") == ("https://one.example", "a")
    assert seen(sites, "2") == ("https://two.example", "b")
    assert sites.of("3") is None


def test_a_loopback_address_is_used_only_while_nothing_better_is_known() -> None:
    sites = Sites(None, None)
    sites.register("1", "http://localhost:8080", "a")
    assert seen(sites) == ("http://localhost:8080", "a")
    sites.register("1", "https://label.example.org", "b")
    sites.register("1", "http://localhost:8080", "c")
    assert seen(sites) == ("https://label.example.org", "b")


@pytest.mark.parametrize("hostname", ["http://localhost:8080", "nonsense", None])
def test_a_token_is_never_sent_to_an_address_that_somebody_else_announced(hostname: str | None) -> None:
    """Label Studio without LABEL_STUDIO_HOST calls itself localhost; its token must not go to what was announced before."""
    sites = Sites(None, None)
    sites.register("1", "https://evil.example", "bait")
    sites.register("1", hostname, "secret")
    assert seen(sites) == ("https://evil.example", "bait")


def test_a_project_that_announced_nothing_uses_what_all_others_agree_on() -> None:
    sites = Sites(None, None)
    for project in ("1", "2"):
        sites.register(project, "https://label.example.org", "a")
    assert seen(sites, "3") == ("https://label.example.org", "a")
    sites.register("2", "https://label.example.org", "b")
    assert seen(sites, "3") == ("https://label.example.org", None)


def test_the_number_of_remembered_projects_is_bounded() -> None:
    sites = Sites(None, None)
    for number in range(MOST_PROJECTS + 5):
        sites.register(str(number), f"https://{number}.example", None)
    assert sites.of("0") is None
    assert sites.of("4") is None
    assert seen(sites, "5") == ("https://5.example", None)


@pytest.mark.parametrize("hostname", ["nonsense", "ftp://host", "http://", "javascript:alert(1)", "http://[::1", ""])
def test_an_unusable_hostname_is_ignored(hostname: str) -> None:
    sites = Sites(None, None)
    sites.register("1", hostname, "a")
    assert sites.of("1") is None


def test_settings_that_cannot_work_are_refused_at_once() -> None:
    with pytest.raises(SetupError, match="MASKLOOM_LABEL_STUDIO_URL='studio:8080' is no http"):
        Sites("studio:8080", None)
    with pytest.raises(SetupError, match="MASKLOOM_LABEL_STUDIO_TOKEN") as refused:
        Sites("http://studio:8080", "two words")
    assert "two words" not in str(refused.value)


def test_a_token_is_read_without_the_line_break_of_its_file() -> None:
    assert seen(Sites("http://studio:8080", f" {LEGACY_TOKEN}\n"))[1] == LEGACY_TOKEN


def test_tokens_are_not_shown_when_a_site_is_printed() -> None:
    sites = Sites("http://me:password@studio:8080", "mine-secret")
    assert "secret" not in repr(sites.of("1"))
    assert "password" not in repr(sites.of("1"))


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("http://a/x", "http://A:80/y", True),
        ("https://a", "https://a:443", True),
        ("http://a", "https://a", False),
        ("http://a:1", "http://a:2", False),
        ("http://localhost:8080", "http://127.0.0.1:8080", True),
        ("http://localhost:8080", "http://[::1]:8080", True),
        ("http://localhost:8080", "http://a:8080", False),
    ],
)
def test_origins_are_scheme_host_and_port(left: str, right: str, same: bool) -> None:
    assert same_origin(httpx.URL(left), httpx.URL(right)) == same


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.8.8.8", True),
        ("[::1]", True),
        ("0.0.0.0", True),
        ("192.168.0.1", False),
        ("a.localhost.de", False),
    ],
)
def test_loopback_is_recognised(host: str, loopback: bool) -> None:
    assert is_loopback(httpx.URL(f"http://{host}/")) == loopback


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
