from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from backend.labelstudio.api import AttachedBackend, LabelStudio, Prediction, Project, is_up
from backend.values.errors import RemoteError, RequestError

LEGACY = "0123456789abcdef0123456789abcdef01234567"
PERSONAL = "eyJhbGciOiJIUzI1NiJ9.eyJ0b2tlbl90eXBlIjoicmVmcmVzaCJ9.c2lnbmF0dXJl"

Answer = tuple[int, Any]


class Server:
    """Real HTTP on the loopback address: answers by a table and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str | None, Any]] = []
        self.answers: dict[str, Callable[[str | None], Answer]] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                is_json = self.headers.get("Content-Type") == "application/json"
                outer.asked.append(
                    (self.command, self.path, self.headers.get("Authorization"), json.loads(raw) if is_json else raw)
                )
                status, body = outer.answers[f"{self.command} {self.path.partition('?')[0]}"](self.headers.get("Authorization"))
                data = b"" if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *_: object) -> None: ...

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def says(self, route: str, body: Any, status: int = 200) -> None:
        self.answers[route] = lambda _: (status, body)

    def asked_paths(self) -> list[str]:
        return [f"{method} {path}" for method, path, _, _ in self.asked]

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def studio(server: Server) -> Iterator[LabelStudio]:
    with LabelStudio(server.url + "/", LEGACY) as client:
        yield client


def test_a_legacy_token_is_sent_as_it_is(server: Server, studio: LabelStudio) -> None:
    server.says("GET /api/version", {})
    studio.call("GET", "/api/version")
    assert server.asked[0][2] == f"Token {LEGACY}"


def test_a_personal_token_is_exchanged_once_and_never_sent_itself(server: Server) -> None:
    server.says("POST /api/token/refresh/", {"access": "short-lived"})
    server.says("GET /api/version", {})
    with LabelStudio(server.url, PERSONAL) as client:
        client.call("GET", "/api/version")
        client.call("GET", "/api/version")
    assert server.asked_paths() == ["POST /api/token/refresh/", "GET /api/version", "GET /api/version"]
    assert server.asked[0][3] == {"refresh": PERSONAL}
    assert [header for _, _, header, _ in server.asked] == [None, "Bearer short-lived", "Bearer short-lived"]


def test_an_access_token_that_has_died_is_replaced(server: Server) -> None:
    tokens = iter(["dead", "alive"])
    server.answers["POST /api/token/refresh/"] = lambda _: (200, {"access": next(tokens)})
    server.answers["GET /api/version"] = lambda header: (200, {"ok": True}) if header == "Bearer alive" else (401, {})
    with LabelStudio(server.url, PERSONAL) as client:
        assert client.call("GET", "/api/version") == {"ok": True}


def test_a_revoked_personal_token_is_said(server: Server) -> None:
    server.says("POST /api/token/refresh/", {"detail": "Token is blacklisted"}, 401)
    with (
        LabelStudio(server.url, PERSONAL) as client,
        pytest.raises(RemoteError, match=r"does not exchange .*answered 401.*make a new one"),
    ):
        client.call("GET", "/api/version")


def test_what_label_studio_says_is_wrong_is_in_the_error(server: Server, studio: LabelStudio) -> None:
    server.says("POST /api/projects/", {"detail": "Validation error", "validation_errors": {"title": ["too short"]}}, 400)
    with pytest.raises(RemoteError, match=r"answered 400 to POST /api/projects/: .*too short"):
        studio.create_project("x", "<View/>")


def test_an_error_page_is_cut_short(server: Server, studio: LabelStudio) -> None:
    server.says("GET /api/version", "<html>" + "x" * 10_000, 500)
    with pytest.raises(RemoteError, match="answered 500") as caught:
        studio.call("GET", "/api/version")
    assert len(str(caught.value)) < 400


def test_a_label_studio_that_is_not_there_is_said(server: Server) -> None:
    server.close()
    with LabelStudio(server.url, LEGACY) as client, pytest.raises(RemoteError, match=r"cannot be reached .* is it running"):
        client.call("GET", "/api/version")
    assert not is_up(server.url)


def test_a_page_in_place_of_an_answer_is_said(server: Server, studio: LabelStudio) -> None:
    """What a portal that wants a login shows first."""
    server.says("GET /api/projects/1/", "<html>Please log in</html>")
    with pytest.raises(RemoteError, match="something else than JSON; is that the address of Label Studio"):
        studio.project(1)


def test_a_number_that_makes_no_address_is_refused(studio: LabelStudio) -> None:
    with pytest.raises(RequestError, match="cannot have such a page"):
        studio.call("GET", "/api/projects/" + "1" * 70_000)


def test_a_proxy_of_the_environment_is_not_asked_about_this_machine(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server.says("GET /api/version", {"release": "1.23.2"})
    server.says("GET /health", {"status": "UP"})
    assert is_up(server.url)
    with LabelStudio(server.url, LEGACY) as client:
        assert client.call("GET", "/api/version") == {"release": "1.23.2"}


def test_the_tasks_of_all_pages_come_with_their_predictions(server: Server, studio: LabelStudio) -> None:
    prediction = {"model_version": "m-1", "score": 0.5, "result": [{"type": "brushlabels"}]}
    tasks = [{"id": i, "data": {"image": f"{i}.png"}, "predictions": [prediction] * (i % 2)} for i in range(150)]
    pages = iter([tasks[:100], tasks[100:]])
    server.answers["GET /api/tasks"] = lambda _: (200, {"tasks": next(pages), "total": 150})
    found = list(studio.tasks_with_predictions(7))
    assert [task.id for task in found] == list(range(150))
    assert found[1].predictions == (Prediction("m-1", 0.5, [{"type": "brushlabels"}]),)
    assert found[2].predictions == ()
    assert "page=2" in server.asked[1][1]


def test_an_empty_project_has_no_tasks(server: Server, studio: LabelStudio) -> None:
    server.says("GET /api/tasks", {"tasks": [], "total": 0})
    assert list(studio.tasks(7)) == []


def test_the_projects_of_all_pages_are_found(server: Server, studio: LabelStudio) -> None:
    pages = iter([("next", [{"id": 1, "title": "one", "description": None}]), (None, [{"id": 2, "title": "two"}])])

    def page(_: str | None) -> Answer:
        following, results = next(pages)
        return 200, {"next": following, "results": results}

    server.answers["GET /api/projects/"] = page
    assert list(studio.projects()) == [Project(1, "one", ""), Project(2, "two", "")]


def test_a_folder_is_served_once(server: Server, studio: LabelStudio, tmp_path: Path) -> None:
    server.says("GET /api/storages/localfiles/", [{"path": str(tmp_path)}])
    studio.serve_folder(7, tmp_path)
    assert server.asked_paths() == ["GET /api/storages/localfiles/?project=7"]


def test_detaching_a_backend_takes_its_webhooks_along_and_no_others(server: Server, studio: LabelStudio) -> None:
    own, other = "http://127.0.0.1:9090/webhook", "http://127.0.0.1:90901/webhook"
    server.says("DELETE /api/ml/3", None, 204)
    server.says("GET /api/webhooks/", [{"id": 5, "url": own}, {"id": 6, "url": other}])
    server.says("DELETE /api/webhooks/5/", None, 204)
    studio.detach_backend(7, AttachedBackend(3, "http://127.0.0.1:9090", "CO", "m-1"))
    assert [path for path in server.asked_paths() if path.startswith("DELETE")] == [
        "DELETE /api/ml/3",
        "DELETE /api/webhooks/5/",
    ]


def test_predictions_made_elsewhere_are_imported_by_task(server: Server, studio: LabelStudio) -> None:
    server.says("POST /api/projects/7/import/predictions", {"created": 1}, 201)
    studio.import_predictions(7, {4: Prediction("m-1", 0.25, [{"id": "a"}])})
    assert server.asked[0][3] == [{"task": 4, "result": [{"id": "a"}], "score": 0.25, "model_version": "m-1"}]
