"""Which hosts may be asked: never one that only this machine or its network can reach, unless it was said; and how."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import httpx
import pytest

from backend.images import network
from backend.images.network import HostLimits, HostPolicy, Network
from backend.values.errors import ImageError, RemoteError, SetupError
from tests.backend.images.conftest import MakeMedia
from tests.backend.images.servers import Answer, Server

LOOPBACKS = (
    "127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "127.0.0.53", "0.0.0.0", "0", "[::1]", "[::]",
    "[::ffff:127.0.0.1]", "[0:0:0:0:0:ffff:7f00:1]", "127.0.1", "LOCALHOST",
)  # fmt: skip
PRIVATE = (
    "10.0.0.8",
    "192.168.1.1",
    "172.16.0.1",
    "169.254.169.254",
    "100.64.0.1",
    "[fe80::1]",
    "[fd00::1]",
    "[64:ff9b::a00:1]",
)


@pytest.mark.parametrize("host", [*LOOPBACKS, *PRIVATE])
def test_a_host_without_a_public_address_is_not_asked_however_it_is_spelled(
    make_media: MakeMedia, server: Server, png: bytes, host: str
) -> None:
    """Neither the answer nor the time tells whether anything listens there."""
    server.pages["/a.png"] = lambda _: Answer(png)
    port = server.url.rpartition(":")[2]
    with pytest.raises(ImageError, match=r"has no public address; .* MASKLOOM_IMAGE_HOSTS"):
        make_media(hosts=()).load(f"http://{host}:{port}/a.png", "1", "1")
    assert server.requests == []


def test_a_redirect_to_this_machine_is_not_followed(
    make_media: MakeMedia, server: Server, png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first host is allowed by its name; where it sends us is checked by itself."""
    port = int(server.url.rpartition(":")[2])
    resolves(monkeypatch, {"images.lan": "127.0.0.1"})
    server.pages["/a.png"] = lambda _: Answer(status=302, headers={"Location": f"http://127.0.0.1:{port}/secret"})
    server.pages["/secret"] = lambda _: Answer(png)
    with pytest.raises(ImageError, match=r"the host 127\.0\.0\.1 has no public address"):
        make_media(hosts=("images.lan",)).load(f"http://images.lan:{port}/a.png", "1", "1")
    assert [path for path, _ in server.requests] == ["/a.png"]


def resolves(monkeypatch: pytest.MonkeyPatch, names: dict[str, str]) -> list[str]:
    """Let names have addresses; the names that were asked for."""
    asked: list[str] = []
    plain = socket.getaddrinfo

    def answer(host: str, port: int, *args: object, **options: object) -> object:
        asked.append(host)
        return plain(names.get(host, host), port, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(network.socket, "getaddrinfo", answer)
    return asked


def test_a_name_is_resolved_once_and_connected_to_as_it_was_checked(
    make_media: MakeMedia, server: Server, png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that has a public address when it is checked and a private one afterwards gains nothing."""
    server.pages["/a.png"] = lambda _: Answer(png)
    asked = resolves(monkeypatch, {"images.lan": "127.0.0.1"})
    make_media(hosts=("*.lan",)).load(f"http://images.lan:{server.url.rpartition(':')[2]}/a.png", "1", "1")
    assert asked.count("images.lan") == 1
    assert any(value.startswith("images.lan:") for name, value in server.requests[0][1].items() if name.lower() == "host")


@pytest.mark.parametrize("hosts", [("localhost",), ("*",), ("127.0.0.0/8",), ("127.0.0.1",)])
def test_hosts_that_are_allowed_are_asked(make_media: MakeMedia, server: Server, png: bytes, hosts: tuple[str, ...]) -> None:
    server.pages["/a.png"] = lambda _: Answer(png)
    assert make_media(hosts=hosts).load(f"{server.url}/a.png", "1", "1").pixels.shape == (5, 7, 3)


def test_our_own_label_studio_is_always_asked_and_another_port_of_its_host_is_not(
    make_media: MakeMedia, server: Server, png: bytes
) -> None:
    server.pages["/data/upload/1/a.png"] = lambda _: Answer(png)
    media = make_media(hosts=(), label_studio_url=server.url)
    assert media.load("/data/upload/1/a.png", "1", "1").pixels.shape == (5, 7, 3)
    with pytest.raises(ImageError, match="has no public address"):
        media.load("http://127.0.0.1:9/a.png", "1", "1")


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111"])
def test_public_addresses_are_allowed(address: str) -> None:
    assert HostPolicy(()).resolve(address, 80) == [address]


PROXIES = (
    {"ALL_PROXY": "socks5://127.0.0.1:1080"},
    {"all_proxy": "socks5h://127.0.0.1:1080", "no_proxy": "localhost,127.0.0.1"},
    {"HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": "localhost,127.0.0.1,::1,fe80::/10"},
    {"HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": "localhost,[::1]"},
    {"HTTP_PROXY": "http://[::1]:9"},
    {"HTTPS_PROXY": "strange://nowhere"},
    {"HTTP_PROXY": "127.0.0.1:9"},
)


@pytest.mark.parametrize("variables", PROXIES)
def test_proxies_of_every_kind_end_no_start_and_this_machine_needs_none(
    make_media: MakeMedia, server: Server, png: bytes, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    server.pages["/a.png"] = lambda _: Answer(png)
    assert make_media().load(f"{server.url}/a.png", "1", "1").pixels.shape == (5, 7, 3)


def test_other_hosts_go_through_the_proxy_unless_they_are_listed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setenv("NO_PROXY", ".corp.lan, 10.0.0.0/8, fd00::/8")
    way = Network()
    assert not way._goes_past("example.com")
    assert all(way._goes_past(host) for host in ("images.corp.lan", "corp.lan", "10.1.2.3", "fd00::7", "localhost"))
    assert not way._goes_past("notcorp.lan")
    server.pages["http://example.com/a"] = lambda _: Answer(b"through the proxy")
    with httpx.Client(transport=way) as client:
        assert client.get("http://example.com/a").content == b"through the proxy"


def test_a_proxy_is_not_asked_for_hosts_that_are_not_allowed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url)
    with httpx.Client(transport=Network(HostPolicy(()))) as client, pytest.raises(ImageError, match="no public address"):
        client.get("http://169.254.169.254/latest/meta-data")
    assert server.requests == []


def test_a_file_of_certificates_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("none")
    with pytest.raises(SetupError, match=r"certificates of .*ca.pem cannot be read .* see MASKLOOM_CA_FILE"):
        Network(ca_file=tmp_path / "ca.pem")


def test_the_certificates_are_read_once_for_all_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than a request to Label Studio, of which readiness and prefetching make a new client each."""
    with Network():
        monkeypatch.setattr(httpx, "create_ssl_context", lambda: pytest.fail("read again"))
        Network().close()


@pytest.mark.slow
def test_a_slow_host_holds_up_its_own_images_alone(make_media: MakeMedia, server: Server, png: bytes) -> None:
    """Forty-five images that drip once held up every click for a minute: all threads waited for one host."""
    let_go = threading.Event()

    def drip(_: object) -> Answer:
        let_go.wait(30)
        return Answer(png)

    media = make_media()
    for number in range(45):
        server.pages[f"/{number}.png"] = drip
    other = Server()
    other.pages["/a.png"] = lambda _: Answer(png)
    ends: list[float] = []
    started = time.monotonic()

    def load(number: int) -> None:
        try:
            media.load(f"http://localhost:{server.url.rpartition(':')[2]}/{number}.png", "1", str(number))
        except RemoteError:
            ends.append(time.monotonic() - started)

    threads = [threading.Thread(target=load, args=(number,)) for number in range(45)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    began = time.monotonic()
    assert media.load(f"{other.url}/a.png", "1", "99").pixels.shape == (5, 7, 3)
    assert time.monotonic() - began < 2
    time.sleep(network.WAIT_FOR_A_HOST_S + 1)
    assert len(ends) >= 45 - network.MOST_OF_A_HOST, "the others were told that the host is slow"
    let_go.set()
    for thread in threads:
        thread.join(20)
    other.close()


def test_whoever_waits_for_a_host_goes_on_when_another_has_ended() -> None:
    limits, order = HostLimits(most=1, wait_s=5), []

    def second() -> None:
        with limits.at("a"):
            order.append("second")

    with limits.at("a"):
        thread = threading.Thread(target=second)
        thread.start()
        with limits.at("b"):
            order.append("another host")
    thread.join(5)
    assert order == ["another host", "second"]


@pytest.mark.parametrize("entry", ["http://photos.lan", "300.1.1.1/8", "10.0.0.0/99", "photos/a"])
def test_what_could_allow_no_host_is_refused(entry: str) -> None:
    with pytest.raises(SetupError, match=r"MASKLOOM_IMAGE_HOSTS has hosts and networks .* is neither"):
        HostPolicy(("localhost", entry))
