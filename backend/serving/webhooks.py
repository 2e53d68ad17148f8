"""Learns from what people accept: events of Label Studio wait in a short queue until a thread has put them into the memory."""

from __future__ import annotations

import json
import logging
import queue
import threading

from backend.labelstudio.events import Accepted, Gone, read_event
from backend.stores.memory import MemoryBank
from backend.values.errors import MaskloomError

log = logging.getLogger(__name__)

MOST_WAITING = 256
MOST_BYTES = 64 << 20
"""Of all events that wait."""


class Learner:
    """Takes the bodies of webhooks at once, as Label Studio waits for a second at most, and reads them in the background."""

    def __init__(self, memory: MemoryBank) -> None:
        self._memory = memory
        self._waiting: queue.Queue[bytes] = queue.Queue(MOST_WAITING)
        self._bytes = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def take(self, body: bytes) -> None:
        """Keep an event for later; one that is too large, alone or with those that wait, or one too many is left out."""
        with self._lock:
            if self._bytes + len(body) > MOST_BYTES:
                log.warning("an event of %d bytes was left out beside %d that wait", len(body), self._bytes)
                return
            try:
                self._waiting.put_nowait(body)
            except queue.Full:
                log.warning("an event was left out: %d are waiting", MOST_WAITING)
                return
            self._bytes += len(body)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="learner", daemon=True)
                self._thread.start()

    def wait(self) -> None:
        """Until everything that was taken has been read."""
        self._waiting.join()

    def _work(self) -> None:
        while True:
            body = self._waiting.get()
            try:
                self._learn(body)
            except (MaskloomError, ValueError) as error:
                log.warning("an event could not be read: %s", error)
            except Exception:
                log.exception("an event could not be learned from")
            finally:
                with self._lock:
                    self._bytes -= len(body)
                self._waiting.task_done()

    def _learn(self, body: bytes) -> None:
        for event in read_event(json.loads(body)):
            match event:
                case Accepted():
                    self._memory.replace(event.project, event.annotation, event.examples)
                case Gone():
                    self._memory.forget(event.project, annotations=event.annotations, tasks=event.tasks)
