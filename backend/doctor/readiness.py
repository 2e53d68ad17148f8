"""Whether a server can answer: what of its Label Studio works, and every finding about it as probes and people ask for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any
from urllib.parse import quote

import httpx

from backend.doctor.findings import Diagnosis, examine_machine
from backend.images.sites import open_client, read_claims
from backend.labelstudio.api import AttachedBackend, LabelStudio
from backend.serving.service import EngineHandle
from backend.values.errors import MaskloomError, RemoteError
from backend.values.settings import Settings

MOST_PROJECTS = 20
"""So many projects are looked at, the newest first."""
_SUBJECT, _TOKEN = "Label Studio", "token"
_CLOSED_PORT = "http://127.0.0.1:1"
"""Nothing answers here, so that Label Studio attaches nothing: it says whether it would ask this machine at all."""


def examine_label_studio(settings: Settings, port: int) -> list[Diagnosis]:
    """Label Studio by the settings, and how it is connected to a server on ``port``."""
    url, token = settings.label_studio_url, settings.label_studio_token
    if not url:
        return [Diagnosis(_SUBJECT, "advice", "MASKLOOM_LABEL_STUDIO_URL is not set: it is known once it attaches this server")]
    found = [_reach(settings, url)]
    if found[0].level != "ok":
        return found
    secret = token.get_secret_value() if token else ""
    found.append(_read_token(secret))
    if found[-1].level != "ok":
        return found
    try:
        with LabelStudio(url, secret, settings.ca_file) as studio:
            studio.call("GET", "/api/current-user/whoami")
            found += _connections(studio, port)
    except MaskloomError as error:
        subject = _TOKEN if getattr(error, "status", None) in (401, 403) else _SUBJECT
        found = [each for each in found if each.subject != subject] + [Diagnosis(subject, "broken", str(error))]
    return found


def _reach(settings: Settings, url: str) -> Diagnosis:
    """Whether what answers at the address is a Label Studio; Maskloom itself has the same health page."""
    try:
        with open_client(url, ca_file=settings.ca_file) as client:
            answer = client.get("/api/version", timeout=5.0)
            version = answer.json()["release"] if answer.is_success else None
    except httpx.InvalidURL as error:
        return Diagnosis(_SUBJECT, "broken", f"{url} is no address ({error}); mend MASKLOOM_LABEL_STUDIO_URL")
    except httpx.HTTPError as error:
        text = f"nothing answers at {url} ({error}): is it running? Else mend MASKLOOM_LABEL_STUDIO_URL"
        return Diagnosis(_SUBJECT, "broken", text)
    except (ValueError, KeyError, TypeError):
        version = None
    if version is None:
        text = f"what answers at {url} is no Label Studio ({answer.status_code}); mend MASKLOOM_LABEL_STUDIO_URL"
        return Diagnosis(_SUBJECT, "broken", text)
    return Diagnosis(_SUBJECT, "ok", f"version {version} at {url}")


def _read_token(token: str) -> Diagnosis:
    """Which kind of token it is, and whether it says itself that it has ended."""
    if not token:
        text = (
            "MASKLOOM_LABEL_STUDIO_TOKEN is not set: uploaded images cannot be read; copy one from Label Studio's account page"
        )
        return Diagnosis(_TOKEN, "broken", text)
    claims: dict[str, Any] = read_claims(token)
    kind = {"refresh": "a personal access token", "access": "an access token, which lives for minutes"}.get(
        str(claims.get("token_type")), "a legacy token"
    )
    ends = claims.get("exp")
    if isinstance(ends, int | float) and ends < time.time():
        day = time.strftime("%Y-%m-%d", time.gmtime(ends))
        text = f"{kind} that ended on {day}; make a new one on Label Studio's account page for MASKLOOM_LABEL_STUDIO_TOKEN"
        return Diagnosis(_TOKEN, "broken", text)
    return Diagnosis(_TOKEN, "ok", f"{kind}, accepted")


def _connections(studio: LabelStudio, port: int) -> Iterator[Diagnosis]:
    projects = list(islice(studio.projects(), MOST_PROJECTS))
    if not projects:
        yield Diagnosis("attached", "advice", "there is no project yet")
        return
    if refusal := _refusal(studio, projects[0].id):
        yield refusal
    ours = [(project.id, backend) for project in projects for backend in studio.backends(project.id) if _is_ours(backend, port)]
    if not ours:
        text = f"no project asks port {port}: in a project's settings, Model, connect the address of this server"
        yield Diagnosis("attached", "advice", text)
    for project, backend in ours:
        yield from _examine_backend(studio, project, backend)


def _refusal(studio: LabelStudio, project: int) -> Diagnosis | None:
    """Whether Label Studio refuses backends on its own machine, which is what it does unless it is told otherwise."""
    try:
        body = {"project": project, "url": _CLOSED_PORT, "title": "maskloom doctor"}
        studio.call("POST", "/api/ml/", json=body)
    except RemoteError as error:
        if "reserved network address" in str(error):
            text = (
                "it refuses backends on its own machine or network: start it with LABEL_STUDIO_ML_BLOCK_LOCAL_IP=false and "
                "SSRF_PROTECTION_ENABLED=false if this server is there"
            )
            return Diagnosis("loopback", "broken", text)
    return None


def _is_ours(backend: AttachedBackend, port: int) -> bool:
    url = httpx.URL(backend.url)
    return (url.port or {"http": 80, "https": 443}.get(url.scheme)) == port


def _examine_backend(studio: LabelStudio, project: int, backend: AttachedBackend) -> Iterator[Diagnosis]:
    subject = f"project {project}"
    if backend.state != "CO":
        text = (
            f"Label Studio has no connection to {backend.url} ({backend.state}): is the server up, and may it be asked there?"
        )
        yield Diagnosis(subject, "broken", text)
    else:
        yield Diagnosis(subject, "ok", f"connected to {backend.url}")
    hook = f"{backend.url.rstrip('/')}/webhook"
    hooks = studio.call("GET", "/api/webhooks/", params={"project": project})
    if not any(each["url"].partition("?")[0] == hook and each.get("is_active", True) for each in hooks):
        text = f"no webhook: accepted annotations are not remembered; add {hook} in the project's settings, Webhooks"
        yield Diagnosis(subject, "broken", text)


KEPT_S = 60.0
"""How long Label Studio's lines are good for: probes come every few seconds."""
MOST_IN_ADDRESS = 300


@dataclass(slots=True)
class Readiness:
    """A server of an engine on ``port``."""

    settings: Settings
    engine: EngineHandle
    port: int
    _studio: tuple[float, list[Diagnosis]] = field(default=(-KEPT_S, []), init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def findings(self) -> list[Diagnosis]:
        """Every line; Label Studio may be asked, which takes seconds when it is away."""
        return [*examine_machine(self.settings, self.engine), *self._label_studio()]

    def reasons(self, findings: list[Diagnosis]) -> list[str]:
        """Why nobody can be answered now. A Label Studio that is away is no reason: others may ask."""
        told = [each.text for each in findings if each.level == "broken" and each.subject in ("engine", "disk", "device")]
        if not told and not self.engine.is_loaded:
            told.append(f"the engine {self.engine.version} is not loaded yet")
        return told

    def _label_studio(self) -> list[Diagnosis]:
        with self._lock:
            asked, found = self._studio
            if time.monotonic() - asked >= KEPT_S:
                found = examine_label_studio(self.settings, self.port)
                self._studio = (time.monotonic(), found)
            return found


def in_address(problem: str) -> str:
    """A problem as the end of an address. Of a failed setup Label Studio shows the address alone, never the answer."""
    return quote("_".join(problem.split())[:MOST_IN_ADDRESS], safe="/_,.:;'()=-")
