"""A Label Studio of a few routes over real HTTP, which fails on demand as the real one does."""

from __future__ import annotations

import io
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any
from urllib.parse import parse_qs, urlsplit

from PIL import Image

from tests.backend.bulk.runs import drawn

TOKEN = "0123456789abcdef0123456789abcdef01234567"
CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">'
    '<Label value="red" predicted_values="crimson"/><Label value="blue"/></BrushLabels></View>'
)


@dataclass
class StudioDouble:
    """Its state; ``faults`` are what the next imports of predictions meet: a status, or "drop" after storing them. ``busy`` are
    the statuses that the next questions about predictions and deletions of them meet. Imports wait while ``gate`` is cleared.
    ``asked`` counts the questions by their path; the pictures of ``missing`` tasks are gone.
    """

    config: str = CONFIG
    tasks: dict[int, dict[str, Any]] = field(default_factory=dict)
    predictions: list[dict[str, Any]] = field(default_factory=list)
    annotations: dict[int, dict[str, Any]] = field(default_factory=dict)
    missing: set[int] = field(default_factory=set)
    backends: list[dict[str, Any]] = field(default_factory=list)
    faults: list[int | str] = field(default_factory=list)
    busy: list[int] = field(default_factory=list)
    imports: list[float] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: count(1))
    gate: threading.Event = field(default_factory=threading.Event)
    at_gate: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    url: str = ""
    server: ThreadingHTTPServer | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.gate.set()

    def wait_for_an_import(self) -> None:
        """Return when an import stands at the gate, which is closed before."""
        until = time.monotonic() + 120
        while not self.at_gate:
            assert time.monotonic() < until, "nothing was imported"
            time.sleep(0.01)

    def with_tasks(self, most: int) -> StudioDouble:
        self.tasks = {number: {"image": f"/data/upload/1/{number}.png"} for number in range(1, most + 1)}
        return self

    def per_task(self) -> dict[int, int]:
        """How many predictions every task has."""
        return {task: sum(each["task"] == task for each in self.predictions) for task in self.tasks}

    def stop(self) -> None:
        assert self.server is not None
        self.server.shutdown()
        self.server.server_close()

    def start(self, port: int = 0) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@contextmanager
def running(double: StudioDouble) -> Iterator[StudioDouble]:
    double.start()
    try:
        yield double
    finally:
        double.stop()


def _handler(double: StudioDouble) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            double.asked[url.path] += 1
            if url.path == "/health":
                self.answer(200, {"status": "UP"})
            elif self.headers.get("Authorization") != f"Token {TOKEN}":
                self.answer(401, {"detail": "Invalid token."})
            elif url.path.startswith("/data/upload/"):
                self.picture(int(url.path.rpartition("/")[2].split(".")[0]))
            elif url.path.startswith("/api/projects/"):
                self.answer(200, {"id": 1, "title": "double", "label_config": double.config})
            elif url.path == "/api/ml/":
                self.answer(200, double.backends)
            elif url.path == "/api/tasks":
                listed = self.listed(json.loads(query.get("query", "{}")))
                size, number = int(query["page_size"]), int(query["page"])
                self.answer(200, {"tasks": listed[size * (number - 1) : size * number], "total": len(listed)})
            elif url.path.startswith("/api/tasks/"):
                self.task(int(url.path.split("/")[3]))
            elif double.busy:
                self.answer(double.busy.pop(0), {"detail": "not now"}, {"Retry-After": "0"})
            elif int(query["task"]) in double.tasks:
                self.answer(200, [each for each in double.predictions if each["task"] == int(query["task"])])
            else:
                self.answer(400, {"task": ["Select a valid choice. That choice is not one of the available choices."]})

        def listed(self, query: dict[str, Any]) -> list[dict[str, Any]]:
            """The tasks that a query chooses, as Label Studio 1.23 does it: by number, by a part of a model version and by what
            predictions hold.
            """
            counts, chosen = double.per_task(), set(double.tasks)
            annotated = Counter(each["task"] for each in double.annotations.values())
            if not query.get("selectedItems", {"all": True})["all"]:
                chosen &= set(query["selectedItems"]["included"])
            for item in query.get("filters", {"items": []})["items"]:
                chosen &= self.filtered(item["filter"].removeprefix("filter:tasks:"), item["operator"], item["value"], counts)
            return [
                {"id": task, "data": data, "total_annotations": annotated[task], "total_predictions": counts[task]}
                for task, data in double.tasks.items()
                if task in chosen
            ]

        def filtered(self, name: str, operator: str, value: Any, counts: dict[int, int]) -> set[int]:
            match name, operator:
                case "predictions_model_versions", "contains":
                    return {each["task"] for each in double.predictions if any(part in each["model_version"] for part in value)}
                case "predictions_results", "not_contains":
                    return set(counts) - {each["task"] for each in double.predictions if value in json.dumps(each["result"])}
                case "total_predictions", "greater":
                    return {task for task, count in counts.items() if count > value}
                case _:
                    raise AssertionError(f"an unknown filter {name} {operator}")

        def task(self, number: int) -> None:
            mine = {
                "annotations": [each for each in double.annotations.values() if each["task"] == number],
                "predictions": [each for each in double.predictions if each["task"] == number],
            }
            self.answer(200, {"id": number, "data": double.tasks[number], **mine})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            double.at_gate += 1
            double.gate.wait(60)
            with double.lock:
                double.imports.append(time.monotonic())
                fault = double.faults.pop(0) if double.faults else None
                gone = [each["task"] for each in body if each["task"] not in double.tasks]
                if isinstance(fault, int):
                    self.answer(fault, {"detail": "not now"}, {"Retry-After": "0"})
                elif gone:
                    self.answer(400, {"non_field_errors": [f"task {gone[0]} couldn't be retrieved"]})
                else:
                    double.predictions += [{**each, "id": next(double.numbers)} for each in body]
                    if fault == "drop":
                        self.connection.close()
                    else:
                        self.answer(201, {"created": len(body)})

        def do_DELETE(self) -> None:
            number = int(self.path.rstrip("/").rpartition("/")[2])
            if double.busy:
                self.answer(double.busy.pop(0), {"detail": "not now"}, {"Retry-After": "0"})
                return
            with double.lock:
                double.predictions = [each for each in double.predictions if each["id"] != number]
            self.answer(204, None)

        def picture(self, number: int) -> None:
            if number in double.missing:
                self.answer(404, {"detail": "Not found."})
                return
            out = io.BytesIO()
            Image.fromarray(drawn(number).image).save(out, "PNG")
            self.send_response(200)
            self.send_header("Content-Length", str(len(out.getvalue())))
            self.end_headers()
            self.wfile.write(out.getvalue())

        def answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
            content = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except OSError:
                self.close_connection = True

    return Handler
