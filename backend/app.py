"""The HTTP routes: the five that Label Studio calls, those of bulk jobs, metrics and a status page.

Jobs: ``POST /jobs``, ``GET /jobs``, ``GET`` and ``DELETE /jobs/{id}``, and a job's report page.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel, ConfigDict, Field

from backend import __version__
from backend.assemble import Parts
from backend.bulk.jobs import Job, Jobs
from backend.bulk.spec import JobSpec, Selection
from backend.doctor.readiness import Readiness, in_address
from backend.door import Door, Rules, collect_spans, is_this_machine
from backend.engines.catalogue import find_engine
from backend.images.sites import is_loopback, read_base
from backend.labelstudio.project_options import read_extra_params
from backend.segmenter import Segmenter
from backend.serving.memory_page import MemoryPage
from backend.telemetry import ANSWER_KINDS, ANSWERS, STAGES, Moment, giving_memory_back, resident_bytes
from backend.values.errors import MaskloomError, NotFoundError, RequestError, SetupError

log = logging.getLogger(__name__)

LOOPBACK_HINT = (
    "Label Studio runs on this machine: it accepts a backend here only when it was started with "
    "LABEL_STUDIO_ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false; uploaded images need MASKLOOM_LABEL_STUDIO_TOKEN "
    "(a personal access token) unless legacy tokens are enabled"
)


class Failure(BaseModel):
    error: str = Field(description="Why a request is not answered, and what to do.")


_FAILURE = {"application/json": {"schema": Failure.model_json_schema()}}
FAILURES: dict[int | str, dict[str, Any]] = {
    "4XX": {"content": _FAILURE, "description": "The caller can mend it."},
    "5XX": {"content": _FAILURE, "description": "Whoever runs this server, or a service that it depends on, can mend it."},
}


class SetupBody(BaseModel):
    """What Label Studio tells about a project when it is attached, and before every batch."""

    model_config = ConfigDict(extra="allow")
    project: str | int | None = Field(None, examples=["1.1795211212"])
    schema_: str | None = Field(None, alias="schema", description="The labelling config.")
    hostname: str | None = None
    access_token: str | None = None
    extra_params: Any = None


class EngineBody(BaseModel):
    """Which engine is to answer."""

    engine: str = Field(examples=["edgetam-cpu"], description="A name from `maskloom parts`.")


class PredictBody(BaseModel):
    """Tasks to segment; `params.context` carries what the annotator drew or typed."""

    model_config = ConfigDict(extra="allow")
    tasks: list[Any]
    project: str | int | None = None
    label_config: str | None = None
    params: Any = None


class JsonAnswer(JSONResponse):
    """JSON in ASCII: halves of characters, which a page can send and UTF-8 cannot write, come back as they came."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def create_app(parts: Parts, *, host: str = "127.0.0.1", port: int = 9090, prewarm: bool = False) -> FastAPI:
    """The server over its parts, which listens on ``host`` and ``port``; with ``prewarm`` the model is loaded in the background
    at once.

    Raises SetupError when only one of the user and the password for Basic authentication is set.
    """

    end_spans = collect_spans(parts.settings.traces_url) if parts.settings.traces_url else lambda: None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if prewarm:
            threading.Thread(target=parts.engine.try_loading, name="prewarm", daemon=True).start()
        with giving_memory_back():
            yield
        parts.close()
        end_spans()

    app = FastAPI(title="Maskloom", version=__version__, description=str(__doc__), lifespan=lifespan, responses=FAILURES)
    registry = CollectorRegistry()
    _add_label_studio_routes(app, parts)
    _add_readiness(app, Readiness(parts.settings, parts.engine, port), is_this_machine(host))
    _add_work_routes(app, parts)
    app.include_router(jobs_router(parts.jobs))
    _add_engine_route(app, parts)
    _add_memory_page(app, parts.memory_page)
    _add_metrics(app, registry, parts)
    _add_error_answers(app)
    app.add_middleware(Door, rules=Rules.of(parts.settings, host), registry=registry)
    return app


def _add_label_studio_routes(app: FastAPI, parts: Parts) -> None:
    hinted = threading.Event()

    @app.get("/")
    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the server answers; never loads the model."""
        return {
            "status": "UP",
            "model_class": "Maskloom",
            "model_version": parts.engine.version,
            "model_loaded": parts.engine.is_loaded,
        }

    @app.get("/livez")
    async def livez() -> dict[str, str]:
        """Whether the process answers at all."""
        return {"status": "alive"}

    @app.post("/setup", response_model=None)
    def setup(body: SetupBody) -> dict[str, str] | RedirectResponse:
        """Remember where the project's Label Studio is, its labels and extra parameters. Loads the model only when an earlier
        attempt failed; one that cannot answer is refused, so that Label Studio does not show it as connected.
        """
        options, told = read_extra_params(body.extra_params), (body.project, body.hostname, body.access_token, body.schema_)
        parts.options.register(parts.projects.register(*told), options)
        base = read_base(body.hostname or "")
        if base is not None and is_loopback(base) and not hinted.is_set():
            hinted.set()
            log.info(LOOPBACK_HINT)
        if parts.engine.problem is not None:
            parts.engine.try_loading()
        problem = parts.engine.problem
        return RedirectResponse(f"setup/{in_address(problem)}", 307) if problem else {"model_version": parts.engine.version}

    @app.post("/setup/{problem:path}", include_in_schema=False)
    async def failed_setup(problem: str) -> JSONResponse:
        return JSONResponse({"error": parts.engine.problem or problem}, 503)

    @app.get("/versions")
    async def versions() -> dict[str, list[str]]:
        """The model versions that this server can answer with."""
        return {"versions": [parts.engine.version]}


def _add_readiness(app: FastAPI, readiness: Readiness, is_private: bool) -> None:
    @app.get("/readyz", responses={503: {"description": "The reasons."}})
    def readyz() -> JSONResponse:
        """Whether requests can be answered now, with every line of `maskloom doctor`; 503 with the reasons when they cannot.
        Where others can reach the server, lines do not name folders and addresses.
        """
        findings = readiness.findings()
        reasons = readiness.reasons(findings)
        shown = ("subject", "level", "text") if is_private else ("subject", "level")
        lines = [{name: getattr(each, name) for name in shown} for each in findings]
        body = {"status": "waiting" if reasons else "ready", "reasons": reasons, "findings": lines}
        return JSONResponse(body, 503 if reasons else 200)


def _add_work_routes(app: FastAPI, parts: Parts) -> None:
    @app.post("/predict", response_model=dict[str, Any])
    def predict(body: PredictBody) -> JsonAnswer:
        """One answer for each task."""
        asked = {**dict(body), "project": parts.projects.key(body.project)}  # not copied: drafts may hold many large masks
        answers = parts.service.predict(asked)
        if parts.prefetcher is not None:
            parts.prefetcher.answered(asked)
        return JsonAnswer({"results": answers})

    @app.post("/webhook", status_code=201)
    async def webhook(request: Request) -> dict[str, str]:
        """Events of a project; answered at once, whatever they say. Accepted regions are remembered in the background."""
        parts.webhooks.enqueue(await request.body())
        return {"status": "received"}


def _add_engine_route(app: FastAPI, parts: Parts) -> None:
    @app.post("/engine")
    def switch(body: EngineBody) -> dict[str, str]:
        """Answer with another engine from now on; it is loaded first, and its weights are those of its name."""
        try:
            recipe = find_engine(body.engine)
        except SetupError as error:
            raise NotFoundError(str(error)) from error
        parts.engine.switch(recipe)
        return {"model_version": parts.engine.version}


def _add_memory_page(app: FastAPI, page: MemoryPage) -> None:
    @app.get("/memory", response_class=HTMLResponse)
    def memory(project: str | None = None, label: str = "", first: int = 0) -> str:
        """What a project's annotations have taught; without a project all of them."""
        return page.overview() if project is None else page.project(project, label, max(0, first))

    @app.get("/memory/picture", response_class=Response)
    def picture(project: str, number: Annotated[int, Query(ge=0, lt=2**63)]) -> Response:
        """A region as a picture."""
        return Response(page.picture(project, number), media_type="image/jpeg")

    @app.post("/memory/act", status_code=303)
    def act(project: str, action: str, token: str, value: int = 0, label: str = "", first: int = 0) -> RedirectResponse:
        """Press a button of the memory page, which is shown again."""
        page.act(project, action, value, token)
        return RedirectResponse("../memory?" + urlencode({"project": project, "label": label, "first": first}), 303)


def _add_metrics(app: FastAPI, registry: CollectorRegistry, parts: Parts) -> None:
    def of_engine(level: Callable[[Segmenter], int]) -> Callable[[], float]:
        return lambda: level(parts.engine.segmenter()) if parts.engine.is_loaded else 0

    levels = {
        "images_waiting": ("Images that wait to be encoded.", of_engine(lambda engine: engine.waiting)),
        "feature_cache_bytes": ("Memory of encoded images.", of_engine(lambda engine: engine.cached_bytes)),
        "webhooks_waiting": ("Events that wait to be read.", lambda: parts.webhooks.waiting),
        "resident_bytes": ("Memory of this process.", resident_bytes),
    }
    registry.register(Moment(levels, lambda: [job.state for job in parts.jobs.all()]))
    registry.register(STAGES)
    registry.register(ANSWERS)
    for kind in ANSWER_KINDS:
        ANSWERS.labels(kind)  # each is there from the start, at 0

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counters in Prometheus' text format."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _add_error_answers(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JsonAnswer:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'][1:])) or 'body'}: {problem['msg']}" for problem in error.errors()
        )
        return JsonAnswer({"error": f"the body of {request.url.path} cannot be used: {problems}"}, 400)

    @app.exception_handler(MaskloomError)
    async def failed(request: Request, error: MaskloomError) -> JsonAnswer:
        status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 503)
        return JsonAnswer({"error": str(error)}, status)


_STATUS: Mapping[type[MaskloomError], int] = {NotFoundError: 404, RequestError: 400}


class JobBody(BaseModel):
    """Which tasks of a project get predictions."""

    project: int = Field(ge=0, examples=[3])
    view: int | None = Field(None, description="Only the tasks of this Data Manager view.")
    tasks: list[int] | None = Field(None, description="Only these tasks.")
    unlabelled: bool = Field(False, description="Only tasks without annotations.")
    only_missing: bool = Field(False, description="Only tasks without any predicted region.")
    labels: str = Field("", examples=["cat=kitten|tabby, dog"])
    min_score: str = Field("", examples=["0.3, cat=0.6"])
    params: dict[str, Any] | None = Field(
        None, examples=[{"mode": "semantic"}], description="Extra parameters in place of the project's."
    )
    limit: int | None = Field(None, ge=1)
    memory: str | int = Field("", examples=[3], description="A version of the project's memory, newest or none.")
    force: bool = Field(False, description="Do anew what is done, and replace it.")

    def spec(self) -> JobSpec:
        chosen = Selection(self.view, self.unlabelled, self.only_missing, None if self.tasks is None else frozenset(self.tasks))
        params = "" if self.params is None else json.dumps(self.params)
        return JobSpec(
            str(self.project),
            labels=self.labels,
            min_score=self.min_score,
            params=params,
            selection=chosen,
            limit=self.limit,
            again=self.force,
            memory=str(self.memory),
        )


class JobStand(BaseModel):
    """How a job stands."""

    id: str
    project: str
    state: str = Field(description="queued, running, finished, cancelled or failed")
    note: str
    total: int
    done: int
    failed: int
    regions: int
    images_per_second: float
    seconds_left: float | None

    @classmethod
    def of(cls, job: Job) -> JobStand:
        stand = job.progress
        facts: dict[str, Any] = {name: getattr(job, name) for name in ("id", "project", "state", "note")}
        facts |= {name: getattr(stand, name) for name in ("total", "done", "failed", "regions")}
        return cls(**facts, images_per_second=round(stand.rate, 3), seconds_left=stand.left_s)


def jobs_router(jobs: Jobs) -> APIRouter:
    """The routes over the jobs of this server."""
    router = APIRouter(prefix="/jobs", tags=["jobs"])

    @router.post("", status_code=202)
    def start(body: JobBody) -> JobStand:
        """Queue predictions for a project; answers at once."""
        return JobStand.of(jobs.start(body.spec()))

    @router.get("")
    def all_jobs() -> list[JobStand]:
        """The jobs since the server started, the newest first."""
        return [JobStand.of(job) for job in jobs.all()]

    @router.get("/{job_id}")
    def one(job_id: str) -> JobStand:
        """How a job stands."""
        return JobStand.of(jobs.get(job_id))

    @router.delete("/{job_id}")
    def cancel(job_id: str) -> JobStand:
        """Let a job end after what is under way; the same job started again goes on later."""
        return JobStand.of(jobs.cancel(job_id))

    @router.get("/{job_id}/report", response_class=HTMLResponse)
    def report(job_id: str) -> str:
        """The report page of a job as it stands."""
        return jobs.page(job_id)

    return router
