"""Refusals over a real connection: the caller reads why, whichever way it sends, and holds nobody up."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from backend import door
from backend.app import create_app
from backend.assemble import Parts, assemble
from backend.values.settings import MEBIBYTE, Settings

BOUNDS = {"/predict": 64, "/webhook": 16, "/setup": 1, "/jobs": 1, "/engine": 1, "/memory/act": 1}
"""Paths, and how many MiB a body of theirs may have."""
CHUNK = b"%x\r\n" % MEBIBYTE + b"a" * MEBIBYTE + b"\r\n"


@contextmanager
def serving(parts: Parts) -> Iterator[tuple[uvicorn.Server, int]]:
    """A server, and its port."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(parts), log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield server, listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with serving(assemble(Settings(engine="colour", home=tmp_path_factory.mktemp("home")))) as (_, port):
        yield port


def head(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: here", "Content-Type: application/json", *headers, "", ""]).encode()


def opened(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def read_to_end(connection: socket.socket) -> bytes:
    """Until the server closes. Raises ConnectionResetError where it closed on unread bytes."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def read_answer(connection: socket.socket) -> bytes:
    """One answer with its whole body, whose connection may stay open."""
    answer = b""
    while (body := answer.partition(b"\r\n\r\n")[2]) == b"" or not body.endswith(b"}"):
        piece = connection.recv(65536)
        assert piece, f"the connection closed after {answer!r}"
        answer += piece
    return answer


def is_cut_off(connection: socket.socket, piece: bytes, times: int, pause_s: float = 0.0) -> bool:
    """Whether the server closes while a piece is sent again and again."""
    try:
        for _ in range(times):
            time.sleep(pause_s)
            connection.sendall(piece)
    except (BrokenPipeError, ConnectionResetError):
        return True
    return False


def status_and_error(answer: bytes) -> tuple[int, str]:
    start, _, body = answer.partition(b"\r\n\r\n")
    return int(start.split()[1]), json.loads(body)["error"]


@pytest.mark.parametrize("path", BOUNDS)
def test_a_caller_that_sends_all_of_a_large_body_before_it_reads_is_told_that_it_is_too_large(port: int, path: str) -> None:
    with opened(port) as connection:
        size = (BOUNDS[path] + 24) * MEBIBYTE
        connection.sendall(head(path, f"Content-Length: {size}"))
        for _ in range(size // MEBIBYTE):
            connection.sendall(b"a" * MEBIBYTE)
        assert status_and_error(read_to_end(connection)) == (413, f"the body of {path} is larger than {BOUNDS[path]} MiB")


@pytest.mark.parametrize("path", BOUNDS)
def test_so_is_a_caller_that_never_said_how_much_would_come(port: int, path: str) -> None:
    with opened(port) as connection:
        connection.sendall(head(path, "Transfer-Encoding: chunked"))
        for _ in range(BOUNDS[path] + 24):
            connection.sendall(CHUNK)
        connection.sendall(b"0\r\n\r\n")
        assert status_and_error(read_to_end(connection)) == (413, f"the body of {path} is larger than {BOUNDS[path]} MiB")


@pytest.mark.parametrize("path", BOUNDS)
def test_a_caller_that_asks_first_is_not_told_to_go_on(port: int, path: str) -> None:
    with opened(port) as connection:
        connection.sendall(head(path, f"Content-Length: {100 * MEBIBYTE}", "Expect: 100-continue"))
        answer = read_answer(connection)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close" in answer


def test_a_caller_that_asks_first_and_may_is_told_to_go_on(port: int) -> None:
    with opened(port) as connection:
        connection.sendall(head("/webhook", "Content-Length: 2", "Expect: 100-continue"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"{}")
        assert connection.recv(65536).startswith(b"HTTP/1.1 201 ")


def test_an_ordinary_client_reads_the_answer_to_each_of_several_large_bodies_at_once(port: int) -> None:
    statuses: list[int] = []

    def send() -> None:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        client.request("POST", "/predict", b"a" * (100 * MEBIBYTE))
        statuses.append(client.getresponse().status)
        client.close()

    senders = [threading.Thread(target=send) for _ in range(3)]
    for each in senders:
        each.start()
    for each in senders:
        each.join(60)
    assert statuses == [413, 413, 413]


def test_a_body_that_finds_no_room_is_read_to_its_end_as_well(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "MOST_HELD_BYTES", MEBIBYTE)
    with opened(port) as connection:
        connection.sendall(head("/predict", f"Content-Length: {32 * MEBIBYTE}"))
        for _ in range(32):
            connection.sendall(b"a" * MEBIBYTE)
        assert status_and_error(read_to_end(connection)) == (503, "too many large requests at once")


def test_what_is_thrown_away_has_an_end(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "DRAINED_BYTES", 8 * MEBIBYTE)
    with opened(port) as connection:
        connection.sendall(head("/setup", "Transfer-Encoding: chunked"))
        assert is_cut_off(connection, CHUNK, times=4096)


@pytest.mark.parametrize(("idle", "whole", "pause"), [(0.3, 30, 1.0), (30, 0.3, 0.05)])
def test_a_caller_that_never_ends_is_not_waited_for(
    port: int, monkeypatch: pytest.MonkeyPatch, idle: float, whole: float, pause: float
) -> None:
    """Silent after its headers, or dripping for ever."""
    monkeypatch.setattr(door, "DRAIN_IDLE_S", idle)
    monkeypatch.setattr(door, "DRAIN_S", whole)
    started = time.monotonic()
    with opened(port) as connection:
        connection.sendall(head("/setup", f"Content-Length: {100 * MEBIBYTE}"))
        assert is_cut_off(connection, b"a", times=round(8 / pause), pause_s=pause)
        answer = connection.recv(65536)
    assert time.monotonic() - started < 8
    assert not answer or answer.startswith(b"HTTP/1.1 413 ")


def test_a_body_that_pauses_for_long_is_given_up(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "BODY_IDLE_S", 0.2)
    monkeypatch.setattr(door, "DRAIN_IDLE_S", 0.1)
    with opened(port) as connection:
        connection.sendall(head("/predict", "Content-Length: 20") + b"{")
        assert status_and_error(read_to_end(connection)) == (408, "the body of /predict paused for 0.2 seconds")


def test_a_refusal_without_a_body_left_keeps_the_connection(port: int) -> None:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for _ in range(2):
        client.request("POST", "/predict", b"[" * 100_000, {"Content-Type": "application/json"})
        refused = client.getresponse()
        assert (refused.status, refused.getheader("connection")) == (400, None)
        assert b"nested deeper" in refused.read()
    client.close()


def test_a_caller_who_waits_when_the_server_ends_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parts, begun, end = assemble(Settings(engine="colour", home=tmp_path)), threading.Event(), threading.Event()

    def wait(*_: Any) -> list[Any]:
        begun.set()
        end.wait(20)
        return []

    monkeypatch.setattr(type(parts.service), "predict", wait)
    with serving(parts) as (server, port), opened(port) as connection:
        connection.sendall(head("/predict", "Content-Length: 12") + b'{"tasks":[]}')
        assert begun.wait(20)
        server.should_exit = True
        answer = read_answer(connection)
        end.set()
    assert status_and_error(answer) == (503, "the server is ending")
    assert b"retry-after" in answer
    assert "Traceback" not in caplog.text
