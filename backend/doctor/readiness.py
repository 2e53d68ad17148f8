"""Whether a server can answer now: this machine at every question, Label Studio no more often than once a minute."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from urllib.parse import quote

from backend.doctor.findings import Finding, examine_machine
from backend.doctor.label_studio import examine_label_studio
from backend.serving.service import EngineHandle
from backend.values.settings import Settings

KEPT_S = 60.0
"""How long Label Studio's lines are good for: probes come every few seconds."""
MOST_IN_ADDRESS = 300


@dataclass(slots=True)
class Readiness:
    """A server of an engine on ``port``."""

    settings: Settings
    engine: EngineHandle
    port: int
    _studio: tuple[float, list[Finding]] = field(default=(-KEPT_S, []), init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def findings(self) -> list[Finding]:
        """Every line; Label Studio may be asked, which takes seconds when it is away."""
        return [*examine_machine(self.settings, self.engine), *self._label_studio()]

    def reasons(self, findings: list[Finding]) -> list[str]:
        """Why nobody can be answered now. A Label Studio that is away is no reason: others may ask."""
        told = [each.text for each in findings if each.level == "broken" and each.subject in ("engine", "disk", "device")]
        if not told and not self.engine.is_loaded:
            told.append(f"the engine {self.engine.version} is not loaded yet")
        return told

    def _label_studio(self) -> list[Finding]:
        with self._lock:
            asked, found = self._studio
            if time.monotonic() - asked >= KEPT_S:
                found = examine_label_studio(self.settings, self.port)
                self._studio = (time.monotonic(), found)
            return found


def in_address(problem: str) -> str:
    """A problem as the end of an address. Of a failed setup Label Studio shows the address alone, never the answer."""
    return quote("_".join(problem.split())[:MOST_IN_ADDRESS], safe="_,.:;'()=-")
