"""Which hosts may be asked, and how they are reached: a name is resolved once, checked, and connected to as it was checked."""

from __future__ import annotations

import ipaddress
import logging
import socket
import ssl
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TypeAlias

import httpcore
import httpx

from backend.values.errors import ImageError, RemoteError, SetupError

log = logging.getLogger(__name__)

HOSTS_SETTING = "MASKLOOM_IMAGE_HOSTS"
CA_SETTING = "MASKLOOM_CA_FILE"
MOST_OF_A_HOST = 8
WAIT_FOR_A_HOST_S = 3.0

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class HostPolicy:
    """Which hosts may be asked. Those with a public address always, and the ``known`` ones by host and port; of all others
    those that are ``allowed``: names (``*.lan`` for all below one), addresses, networks, ``localhost`` for this machine, and
    ``*`` for all.

    A task's data, and so an address, may come from anybody who can reach the server or draw in a project, and must not make it
    ask the services that only this machine or its network can reach.
    """

    def __init__(self, allowed: Sequence[str], known: Iterable[httpx.URL] = ()) -> None:
        """Raises SetupError for what is neither a name, an address nor a network, and so would allow nothing."""
        if wrong := [entry for entry in allowed if "/" in entry and _network(entry) is None]:
            raise SetupError(f"{HOSTS_SETTING} has hosts and networks such as 192.168.0.0/16, and {wrong[0]!r} is neither")
        self._names = [entry.lower() for entry in allowed if _network(entry) is None]
        self._networks = [network for network in map(_network, allowed) if network is not None]
        self._known = {(url.host, _port(url)) for url in known}

    def resolve(self, host: str, port: int) -> list[str]:
        """The addresses of a host, checked. Raises ImageError for one that may not be asked, OSError for one without any."""
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(place[4][0]) for place in found))
        for address in addresses:
            self._check(host, port, ipaddress.ip_address(address.partition("%")[0]))
        return addresses

    def check_literal(self, host: str, port: int) -> None:
        """Check a host that is an address or this machine; any other name is left to whoever resolves it (a proxy)."""
        address = _address(host)
        if address is None and (host == "localhost" or host.endswith(".localhost")):
            address = ipaddress.ip_address("127.0.0.1")
        if address is not None:
            self._check(host, port, address)

    def _check(self, host: str, port: int, address: Address) -> None:
        plain = _plain(address)
        if plain.is_global and not plain.is_multicast:
            return
        is_here = plain.is_loopback or plain.is_unspecified
        names = (host.lower(), "localhost") if is_here else (host.lower(),)
        if (host, port) in self._known or any(fnmatchcase(name, allowed) for name in names for allowed in self._names):
            return
        if any(plain in network for network in self._networks if network.version == plain.version):
            return
        raise ImageError(
            f"the host {host} has no public address; if images are meant to come from there, add it to {HOSTS_SETTING}"
        )


class Network(httpx.BaseTransport):
    """The way to the hosts that a policy allows, to all without one: through the environment's proxies (``HTTP_PROXY``,
    ``HTTPS_PROXY``, ``ALL_PROXY``; SOCKS, too) but for the hosts of ``NO_PROXY``, or straight. This machine needs no proxy.

    Raises SetupError for a file of certificates that cannot be used. A proxy that cannot be used is told and left out.
    """

    def __init__(self, policy: HostPolicy | None = None, ca_file: Path | None = None) -> None:
        context = _certificates(ca_file)
        self._policy = policy = policy or HostPolicy(("*",))
        self._straight = httpx.HTTPTransport(verify=context)
        self._straight._pool = httpcore.ConnectionPool(
            ssl_context=context, max_connections=100, max_keepalive_connections=20, network_backend=_CheckedConnections(policy)
        )
        proxies = urllib.request.getproxies_environment()
        self._past_proxies = [entry.strip() for entry in proxies.pop("no", "").split(",") if entry.strip()]
        self._proxies = {scheme: way for scheme, url in proxies.items() if (way := _proxy(scheme, url, context))}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        way = self._proxies.get(request.url.scheme) or self._proxies.get("all")
        if way is None or self._goes_past(request.url.host):
            return self._straight.handle_request(request)
        self._policy.check_literal(request.url.host, _port(request.url))
        return way.handle_request(request)

    def close(self) -> None:
        for way in (self._straight, *self._proxies.values()):
            way.close()

    def _goes_past(self, host: str) -> bool:
        """Whether a host is reached without a proxy: it, a domain above it or a network around it is listed."""
        address = _address(host)
        if host == "localhost" or (address is not None and address.is_loopback):
            return True
        for entry in self._past_proxies:
            network = _network(entry.strip("[]"))
            if network is not None:
                if address is not None and address.version == network.version and address in network:
                    return True
            elif entry == "*" or f".{host}".endswith(f".{entry.lstrip('*.')}"):
                return True
        return False


class _CheckedConnections(httpcore.NetworkBackend):
    """Connects to the addresses that a policy has checked; whoever answers a second question about the name is not asked."""

    def __init__(self, policy: HostPolicy) -> None:
        self._policy = policy
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            addresses = self._policy.resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"its name cannot be resolved ({error})") from error
        failed: Exception = httpcore.ConnectError("it has no address")
        for address in addresses:
            try:
                return self._plain.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed


class HostLimits:
    """At most so many threads at a host at once; one more waits a moment, so that a slow host cannot hold up all threads."""

    def __init__(self, most: int = MOST_OF_A_HOST, wait_s: float = WAIT_FOR_A_HOST_S) -> None:
        self._most = most
        self._wait_s = wait_s
        self._used: Counter[str] = Counter()
        self._changed = threading.Condition()

    @contextmanager
    def at(self, host: str) -> Iterator[None]:
        """Raises RemoteError when the host keeps too many others waiting."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._used[host] < self._most, self._wait_s):
                raise RemoteError(f"{host} is slow: it has been asked for {self._most} images and has not sent them yet", 503)
            self._used[host] += 1
        try:
            yield
        finally:
            with self._changed:
                self._used[host] -= 1
                self._used += Counter()
                self._changed.notify_all()


@cache
def _certificates(ca_file: Path | None) -> ssl.SSLContext:
    """The certificates that are trusted everywhere (and those of ``SSL_CERT_FILE``), with those of a file of one's own; read
    once, as that takes longer than a whole request.
    """
    try:
        context = httpx.create_ssl_context()
        if ca_file is not None:
            context.load_verify_locations(ca_file)
    except (OSError, ssl.SSLError) as error:
        raise SetupError(
            f"the certificates of {ca_file or 'SSL_CERT_FILE'} cannot be read ({error}); see {CA_SETTING}"
        ) from error
    return context


def _proxy(scheme: str, url: str, context: ssl.SSLContext) -> httpx.HTTPTransport | None:
    if scheme not in ("http", "https", "all"):
        return None
    try:
        return httpx.HTTPTransport(verify=context, proxy=url if "://" in url else f"http://{url}")
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        log.warning("%s_PROXY cannot be used (%s); hosts are asked without it", scheme.upper(), error)
        return None


def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return None


def _plain(address: Address) -> Address:
    """The address of IPv4 that one of IPv6 stands for, if it does."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return inner or address
    return address


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)
