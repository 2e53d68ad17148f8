"""Label Studio's REST API: the calls that Maskloom makes, and the kinds of token it takes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from backend.images.sites import open_client
from backend.labelstudio.shapes.base import seconds_of
from backend.values.errors import RemoteError, RequestError


def is_up(url: str) -> bool:
    """Whether a Label Studio or an ML backend on this machine answers its health check."""
    try:
        return httpx.get(f"{url.rstrip('/')}/health", timeout=2.0, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def send(client: httpx.Client, method: str, path: str, **options: Any) -> httpx.Response:
    """One request. Raises RemoteError that says which, and what Label Studio had against it."""
    try:
        response = client.request(method, path, **options)
    except httpx.TimeoutException as error:
        raise RemoteError(
            f"Label Studio did not answer {method} {str(client.base_url).rstrip('/')}/{path.lstrip('/')} in time"
        ) from error
    except httpx.RequestError as error:
        raise RemoteError(f"Label Studio cannot be reached at {client.base_url}: {error}; is it running?") from error
    except httpx.InvalidURL as error:
        raise RequestError(f"Label Studio at {client.base_url} cannot have such a page: {error}") from error
    if response.is_error:
        told = f"Label Studio answered {response.status_code} to {method} {path}: {_reason(response)}{_advice(response)}"
        raise RemoteError(told, response.status_code, _asked_pause_s(response))
    return response


def _advice(response: httpx.Response) -> str:
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return "; check the token (--token or MASKLOOM_LABEL_STUDIO_TOKEN) against its account page"
    return ""


def _asked_pause_s(response: httpx.Response) -> float | None:
    value = response.headers.get("retry-after", "").strip()
    return float(value) if value.isdecimal() else None


def _reason(response: httpx.Response) -> str:
    """What Label Studio says went wrong, or the beginning of its page."""
    try:
        body = response.json()
    except ValueError:
        return response.text[:200].strip() or response.reason_phrase
    if not isinstance(body, dict):
        return str(body)[:500]
    return str(body.get("validation_errors") or body.get("detail") or body)[:500]


Json = Any

PAGE_SIZE = 100
LISTED_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Project:
    id: int
    title: str
    description: str
    label_config: str = ""
    made_at: float = 0.0

    @property
    def name(self) -> str:
        """What requests call it: its number, and the second in which it was made."""
        return f"{self.id}.{math.floor(self.made_at)}" if self.made_at else str(self.id)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a backend said about one task; ``result`` is in Label Studio's own words."""

    model_version: str
    score: float | None
    result: Sequence[Mapping[str, Json]]


@dataclass(frozen=True, slots=True)
class Task:
    id: int
    data: Mapping[str, Json]
    predictions: tuple[Prediction, ...] = ()


@dataclass(frozen=True, slots=True)
class ListedTask:
    """A task as the Data Manager lists it quickly, with how much there is about it, and when any of it last changed."""

    id: int
    data: Mapping[str, Json]
    annotations: int
    predictions: int
    updated: str = ""


@dataclass(frozen=True, slots=True)
class StoredPrediction:
    """A prediction as it is kept, with its number."""

    id: int
    model_version: str
    score: float | None
    result: Sequence[Mapping[str, Json]]


@dataclass(frozen=True, slots=True)
class TaskDetails:
    """A task with everything that people and backends said about it, the oldest first."""

    id: int
    data: Mapping[str, Json]
    annotations: tuple[Mapping[str, Json], ...]
    predictions: tuple[StoredPrediction, ...]


@dataclass(frozen=True, slots=True)
class AttachedBackend:
    """An ML backend of a project; ``state`` is CO (connected), DI (disconnected), ER (error) and so on; ``extra_params`` are
    those of its settings, as Label Studio sends them to it.
    """

    id: int
    url: str
    state: str
    model_version: str
    extra_params: Json = None


class LabelStudio:
    """A Label Studio that we may use with a token. Every method raises RemoteError when it does not do as asked."""

    def __init__(self, url: str, token: str, ca_file: Path | None = None) -> None:
        self.url = url.rstrip("/")
        self._http = open_client(self.url, token, ca_file)

    def __enter__(self) -> LabelStudio:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def call(self, method: str, path: str, **options: Json) -> Json:
        """Any request of the API, with httpx's options (``json``, ``params``, ``files``); None when the answer is empty."""
        response = send(self._http, method, path, **options)
        try:
            return response.json() if response.content else None
        except ValueError as error:
            told = f"{self.url} answered {method} {path} with something else than JSON; is that the address of Label Studio?"
            raise RemoteError(told, response.status_code) from error

    def projects(self) -> Iterator[Project]:
        page = 1
        while True:
            params = {"page": page, "page_size": PAGE_SIZE, "include": "id,title,description"}
            answer = self.call("GET", "/api/projects/", params=params)
            yield from map(_read_project, answer["results"])
            if not answer["next"]:
                return
            page += 1

    def project(self, project_id: int) -> Project:
        """A project with its labelling config."""
        return _read_project(self.call("GET", f"/api/projects/{project_id}/"))

    def create_project(self, title: str, label_config: str, description: str = "") -> Project:
        """A new project; Label Studio wants a title of 3 to 50 characters."""
        body = {"title": title, "label_config": label_config, "description": description}
        return _read_project(self.call("POST", "/api/projects/", json=body))

    def import_tasks(self, project_id: int, data: Sequence[Mapping[str, Json]]) -> list[int]:
        """New tasks from their data, such as ``{"image": "/data/local-files/?d=..."}``; their numbers in the same order."""
        path, tasks = f"/api/projects/{project_id}/import", [{"data": dict(each)} for each in data]
        answer = self.call("POST", path, params={"return_task_ids": "true"}, json=tasks)
        return [int(each) for each in answer["task_ids"]]

    def serve_folder(self, project_id: int, folder: Path) -> None:
        """Let the people of a project see the files of a folder on Label Studio's own disk, below its document root."""
        storages = self.call("GET", "/api/storages/localfiles/", params={"project": project_id})
        if any(storage["path"] == str(folder) for storage in storages):
            return
        body = {"project": project_id, "path": str(folder), "title": folder.name, "use_blob_urls": True}
        self.call("POST", "/api/storages/localfiles/", json=body)

    def tasks(self, project_id: int, fields: str = "task_only") -> Iterator[Task]:
        """The tasks of a project without their predictions, page by page."""
        return map(_read_task, self._pages({"project": project_id, "fields": fields, "page_size": PAGE_SIZE}))

    def tasks_with_predictions(self, project_id: int) -> Iterator[Task]:
        """The tasks of a project with all that backends said about them, page by page."""
        return self.tasks(project_id, "all")

    def list_tasks(self, project_id: int, view: int | None = None) -> Iterator[ListedTask]:
        """The tasks of a project or of one of its Data Manager views; six times as fast as ``tasks``."""
        return self._list(project_id, {} if view is None else {"view": view})

    def find_tasks(self, project_id: int, task_ids: Sequence[int], model_version: str = "") -> Iterator[ListedTask]:
        """Those tasks of a project that are there, in the order of the numbers; with a ``model_version`` those of them with a
        prediction of it or of a version whose name contains it. A request for every hundred.
        """
        query: dict[str, Json] = {"ordering": ["tasks:id"]}
        if model_version:
            made_by = {"filter": "filter:tasks:predictions_model_versions", "operator": "contains", "type": "List"}
            query["filters"] = {"conjunction": "and", "items": [{**made_by, "value": [model_version]}]}
        for start in range(0, len(task_ids), PAGE_SIZE):
            query["selectedItems"] = {"all": False, "included": list(task_ids[start : start + PAGE_SIZE])}
            yield from self._list(project_id, {"query": json.dumps(query)})

    def tasks_without_regions(self, project_id: int) -> Iterator[int]:
        """The tasks of a project with predictions none of which has a region."""
        predicted = {"filter": "filter:tasks:total_predictions", "operator": "greater", "type": "Number", "value": 0}
        no_result = {"filter": "filter:tasks:predictions_results", "operator": "not_contains", "type": "String"}
        filters = {"conjunction": "and", "items": [predicted, {**no_result, "value": '"type"'}]}
        yield from (task.id for task in self._list(project_id, {"query": json.dumps({"filters": filters})}))

    def _list(self, project_id: int, which: Mapping[str, Json]) -> Iterator[ListedTask]:
        params = {"project": project_id, "fields": "task_only", "page_size": LISTED_AT_ONCE, **which}
        params["include"] = "id,data,total_annotations,total_predictions,updated_at"
        for task in self._pages(params):
            counts = (task["total_annotations"], task["total_predictions"])
            yield ListedTask(int(task["id"]), task["data"], *counts, str(task.get("updated_at") or ""))

    def _pages(self, params: Mapping[str, Json]) -> Iterator[Mapping[str, Json]]:
        """The tasks of all pages, each page asked for when it is reached."""
        page, seen, total = 1, 0, 1
        while seen < total:
            answer = self.call("GET", "/api/tasks", params={**params, "page": page})
            yield from answer["tasks"]
            page, seen, total = page + 1, seen + len(answer["tasks"]), answer["total"]
            if not answer["tasks"]:
                return

    def annotators(self) -> dict[str, int]:
        """The numbers of people by their addresses, in lower case."""
        return {str(each["email"]).lower(): int(each["id"]) for each in self.call("GET", "/api/users/")}

    def task(self, task_id: int) -> TaskDetails:
        """One task with its annotations and predictions."""
        return _read_details(self.call("GET", f"/api/tasks/{task_id}/"))

    def detailed_tasks(self, project_id: int, task_ids: Sequence[int]) -> Iterator[TaskDetails]:
        """Those of some tasks that are there, in one request: many times as fast as asking for each, all in memory at once."""
        chosen = {"ordering": ["tasks:id"], "selectedItems": {"all": False, "included": list(task_ids)}}
        params = {"project": project_id, "fields": "all", "page_size": len(task_ids), "query": json.dumps(chosen)}
        return map(_read_details, self._pages(params))

    def change_data(self, task_id: int, data: Mapping[str, Json]) -> None:
        """Replace a task's data, all of it."""
        self.call("PATCH", f"/api/tasks/{task_id}/", json={"data": dict(data)})

    def change_score(self, prediction_id: int, score: float) -> None:
        """Give a prediction another score, by which the Data Manager sorts."""
        self.call("PATCH", f"/api/predictions/{prediction_id}/", json={"score": score})

    def attach_backend(self, project_id: int, url: str, title: str) -> AttachedBackend:
        """Connect an interactive ML backend to a project; it must be answering already."""
        body = {"project": project_id, "url": url, "title": title, "is_interactive": True}
        return _read_backend(self.call("POST", "/api/ml/", json=body))

    def backends(self, project_id: int) -> list[AttachedBackend]:
        """The backends of a project; Label Studio asks each for its health and its model version first."""
        return [_read_backend(each) for each in self.call("GET", "/api/ml/", params={"project": project_id})]

    def detach_backend(self, project_id: int, backend: AttachedBackend) -> None:
        """Disconnect a backend from a project, with the webhooks that Label Studio made for it and would leave behind."""
        self.call("DELETE", f"/api/ml/{backend.id}")
        for webhook in self.call("GET", "/api/webhooks/", params={"project": project_id}):
            if webhook["url"].startswith(backend.url.rstrip("/") + "/"):
                self.call("DELETE", f"/api/webhooks/{webhook['id']}/")

    def retrieve_predictions(self, project_id: int, task_ids: Sequence[int]) -> None:
        """Have Label Studio ask the project's first backend about these tasks, in one request with a limit of 100 s.

        It says "done" whatever happens; look at the predictions afterwards.
        """
        params = {"id": "retrieve_tasks_predictions", "project": project_id}
        body = {"selectedItems": {"all": False, "included": list(task_ids)}}
        self.call("POST", "/api/dm/actions", params=params, json=body)

    def import_predictions(self, project_id: int, predictions: Mapping[int, Prediction]) -> None:
        """Store predictions that were made elsewhere, one for each task number."""
        body = [
            {"task": task, "result": list(each.result), "score": each.score, "model_version": each.model_version}
            for task, each in predictions.items()
        ]
        self.call("POST", f"/api/projects/{project_id}/import/predictions", json=body)

    def prediction_ids(self, task_id: int, model_version: str) -> list[int]:
        """The predictions of a task that a model version made, the oldest first; none for a task that is gone."""
        try:
            found = self.call("GET", "/api/predictions/", params={"task": task_id})
        except RemoteError as error:
            if error.status in (400, 404):  # "That choice is not one of the available choices"
                return []
            raise
        return sorted(int(each["id"]) for each in found if each["model_version"] == model_version)

    def delete_prediction(self, prediction_id: int) -> None:
        self.call("DELETE", f"/api/predictions/{prediction_id}/")


def _read_project(body: Mapping[str, Json]) -> Project:
    description, label_config = str(body.get("description") or ""), str(body.get("label_config") or "")
    made_at = seconds_of(body.get("created_at")) or 0.0
    return Project(int(body["id"]), str(body["title"]), description, label_config, made_at)


def _read_task(body: Mapping[str, Json]) -> Task:
    predictions = tuple(
        Prediction(str(each.get("model_version") or ""), each.get("score"), each.get("result") or ())
        for each in body.get("predictions") or ()
    )
    return Task(int(body["id"]), body["data"], predictions)


def _read_details(body: Mapping[str, Json]) -> TaskDetails:
    predictions = (
        StoredPrediction(int(p["id"]), str(p.get("model_version") or ""), p.get("score"), p.get("result") or ())
        for p in sorted(body.get("predictions") or (), key=lambda p: int(p["id"]))
    )
    annotations = sorted(body.get("annotations") or (), key=lambda a: int(a["id"]))
    return TaskDetails(int(body["id"]), body["data"], tuple(annotations), tuple(predictions))


def _read_backend(body: Mapping[str, Json]) -> AttachedBackend:
    version, extra_params = str(body.get("model_version") or ""), body.get("extra_params")
    return AttachedBackend(int(body["id"]), str(body["url"]), str(body["state"]), version, extra_params)
