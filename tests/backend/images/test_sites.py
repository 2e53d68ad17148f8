from __future__ import annotations

import httpx
import pytest

from backend.images.sites import MOST_PROJECTS, Sites, is_loopback, same_origin
from backend.values.errors import SetupError
from tests.backend.images.servers import LEGACY_TOKEN


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
