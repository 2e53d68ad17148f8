"""A proxy on the loopback interface that does to connections what networks do: late, cut short, reset, or silent for ever."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

PIECE = 1 << 14
LATE_S = 0.2


@dataclass
class FaultyProxy:
    """Passes bytes on to a server. ``faults`` are what the next connections meet, the others pass; ``after`` so many bytes of
    the answer. ``fault`` is what all others meet.

    ``late``: the answer begins later. ``cut``: the connection is closed. ``reset``: it is reset. ``half-open``: nothing comes
    any more, and nobody closes it. ``deaf``: it is accepted and never answered.
    """

    target: str
    fault: str = ""
    after: int = 0
    faults: deque[str] = field(default_factory=deque)
    _ended: threading.Event = field(default_factory=threading.Event)
    _door: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._door.getsockname()[1]}"

    def serve(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(OSError):
                caller, _ = self._door.accept()
                threading.Thread(target=self._connect, args=(caller,), daemon=True).start()

    def close(self) -> None:
        self._ended.set()
        self._door.close()

    def _connect(self, caller: socket.socket) -> None:
        fault = self.faults.popleft() if self.faults else self.fault
        with contextlib.suppress(OSError), caller:
            if fault == "deaf":
                self._ended.wait()
                return
            place = urlsplit(self.target)
            assert place.hostname is not None
            with socket.create_connection((place.hostname, place.port or 80)) as server:
                threading.Thread(target=self._pass_on, args=(caller, server), daemon=True).start()
                self._answer(server, caller, fault)

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(PIECE):
                sink.sendall(piece)

    def _answer(self, server: socket.socket, caller: socket.socket, fault: str) -> None:
        passed = 0
        while piece := server.recv(PIECE):
            if fault == "late" and not passed:
                time.sleep(LATE_S)
            left = len(piece) if fault in ("", "late") else max(0, self.after - passed)
            caller.sendall(piece[:left])
            passed += left
            if left == len(piece):
                continue
            if fault == "half-open":
                self._ended.wait()
            if fault == "reset":
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            caller.close()
            return


@contextmanager
def before(target: str) -> Iterator[FaultyProxy]:
    """A proxy before a server, for as long as the block lasts."""
    proxy = FaultyProxy(target)
    threading.Thread(target=proxy.serve, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.close()
