"""The routes of jobs: ``POST /jobs``, ``GET /jobs``, ``GET`` and ``DELETE /jobs/{id}``, and a job's report page."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from backend.bulk.jobs import Job, Jobs
from backend.bulk.sources import Selection
from backend.bulk.spec import JobSpec


class JobBody(BaseModel):
    """Which tasks of a project get predictions."""

    project: int = Field(examples=[3])
    view: int | None = Field(None, description="Only the tasks of this Data Manager view.")
    tasks: list[int] | None = Field(None, description="Only these tasks.")
    unlabelled: bool = Field(False, description="Only tasks without annotations.")
    only_missing: bool = Field(False, description="Only tasks without any prediction.")
    labels: str = Field("", examples=["cat=kitten|tabby, dog"])
    min_score: str = Field("", examples=["0.3, cat=0.6"])
    params: dict[str, Any] | None = Field(
        None, examples=[{"mode": "semantic"}], description="Extra parameters in place of the project's."
    )
    limit: int | None = Field(None, ge=1)
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
