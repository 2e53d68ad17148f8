"""The memory page in a real browser, before a server that listens: what people see, and what its buttons do."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import uvicorn
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, Page
from pydantic import SecretStr

from backend.app import create_app
from backend.assemble import Parts, assemble
from backend.stores.curation import Curation
from backend.stores.database import Database
from backend.stores.memory import MemoryBank
from backend.stores.snapshots import Snapshots
from backend.values.settings import Settings
from tests.backend.annotator import Annotator, click, with_images
from tests.backend.stores.test_memory import CAT, told
from tests.labelstudio.conftest import free_port


@contextmanager
def listening(parts: Parts) -> Iterator[str]:
    """A server in a thread; its address."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(create_app(parts), port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    with_images(tmp_path)
    login = {"basic_auth_user": "ann", "basic_auth_pass": SecretStr("secret")}
    return assemble(Settings(engine="colour", home=tmp_path / "home", local_roots=str(tmp_path), **login))  # type: ignore[arg-type]


@pytest.fixture
def project(parts: Parts, tmp_path: Path) -> str:
    """Three annotated tasks: a ball and a box on one, a box called a ball by mistake on another, a ball on the third."""
    with TestClient(create_app(parts)) as client:
        client.auth = ("ann", "secret")
        right, wrong = [click(35, 45), click(130, 40, label="Box")], [click(30, 40)]
        for number, (name, wanted) in enumerate((("a.png", right), ("b.png", wrong), ("a.png", right[:1])), start=1):
            ann = Annotator(client, tmp_path / name, number)
            ann.drawn = [region for each in wanted for region in ann.ask(each)]
            ann.submit()
        parts.webhooks.wait()
    bank = MemoryBank(Database(parts.settings.database_url))
    (key,) = [key for key in Curation(Database(parts.settings.database_url)).projects() if bank.labels(key)]
    return key


@pytest.fixture
def page(browser: Browser, parts: Parts, project: str) -> Iterator[Page]:
    fresh = assemble(parts.settings)
    with listening(fresh) as url:
        context = browser.new_context(http_credentials={"username": "ann", "password": "secret"})
        context.set_default_timeout(20_000)
        page = context.new_page()
        page.goto(f"{url}/memory")
        yield page
        context.close()


def bank_of(parts: Parts) -> MemoryBank:
    return MemoryBank(Database(parts.settings.database_url))


@pytest.mark.slow
def test_every_region_is_shown_as_a_picture_with_its_verdict_and_weight(page: Page, project: str) -> None:
    page.get_by_role("link", name=project).click()
    assert page.locator("h1").inner_text() == f"Memory of project {project}"
    figures = page.locator("figure")
    assert figures.count() == 3, "the balls; the box is another label"
    page.wait_for_function("() => [...document.images].every(image => image.complete && image.naturalWidth > 20)")
    assert "drawn, weight 33%" in figures.first.inner_text()
    page.get_by_role("link", name="Box").click()
    assert page.locator("figure").count() == 1


@pytest.mark.slow
def test_a_region_is_removed_and_restored_and_pinned(page: Page, parts: Parts, project: str) -> None:
    page.get_by_role("link", name=project).click()
    bank = bank_of(parts)
    newest = bank.recall(project, "Ball", 1)[0].region
    page.locator("figure").first.get_by_role("button", name="remove").click()
    page.wait_for_selector("figure.gone")
    assert newest not in [each.region for each in bank.recall(project, "Ball", 9)]
    assert len(bank.recall(project, "Ball", 9)) == 2
    page.get_by_role("button", name="restore").click()
    page.wait_for_selector("figure.gone", state="detached")
    page.locator("figure").last.get_by_role("button", name="pin", exact=True).click()
    page.wait_for_selector("figure.pin")
    assert [each.is_pinned for each in bank.recall(project, "Ball", 9)] == [True, False, False]


@pytest.mark.slow
def test_a_version_is_frozen_weighed_and_chosen_and_a_doubtful_region_is_named(page: Page, parts: Parts, project: str) -> None:
    page.get_by_role("link", name=project).click()
    with page.expect_navigation():
        page.get_by_role("button", name="Freeze a version").click()
    snapshots = Snapshots(Database(parts.settings.database_url))
    until = time.monotonic() + 60
    while not any(each.report for each in snapshots.all(project)) and time.monotonic() < until:
        time.sleep(0.1)
    page.reload()
    assert "memory@1" in page.locator("table", has_text="version").inner_text()
    assert "looks like Box" in page.locator("body").inner_text()
    assert "doubtful" in page.locator("figure.bad").first.inner_text()
    used = snapshots.for_bulk(project) is not None
    page.get_by_role("button", name="bulk runs without memory" if used else "use it").click()
    page.wait_for_selector("text=use it" if used else "text=used by bulk runs")
    assert (snapshots.for_bulk(project) is not None) is not used


@pytest.mark.slow
def test_a_project_opts_out_and_in(page: Page, parts: Parts, project: str) -> None:
    page.get_by_role("link", name=project).click()
    page.get_by_role("button", name="Forget everything and remember nothing").click()
    page.get_by_role("button", name="Remember from now on").wait_for()
    assert bank_of(parts).labels(project) == {}
    page.get_by_role("button", name="Remember from now on").click()
    page.get_by_role("button", name="Forget everything and remember nothing").wait_for()


def test_strangers_see_nothing_and_no_other_page_can_press_a_button(parts: Parts, project: str) -> None:
    with TestClient(create_app(parts)) as stranger:
        assert stranger.get("/memory").status_code == 401
        assert stranger.get("/memory", params={"project": project}).status_code == 401
        assert stranger.post("/memory/act", params={"project": project, "action": "off", "token": "x"}).status_code == 401
    with TestClient(create_app(parts)) as known:
        known.auth = ("ann", "secret")
        pressed = known.post("/memory/act", params={"project": project, "action": "off", "token": "x"})
    assert pressed.status_code == 400
    assert "another page" in pressed.json()["error"]
    assert bank_of(parts).labels(project) != {}


def test_the_page_is_closed_on_a_server_that_others_reach_without_a_login(tmp_path: Path) -> None:
    parts = assemble(Settings(engine="colour", home=tmp_path))
    with TestClient(create_app(parts, host="0.0.0.0")) as client:
        assert client.get("/memory").status_code == 403


def test_names_are_shown_as_they_are_written(parts: Parts) -> None:
    """A label or a project cannot bring along a script."""
    parts.memory_page.curation.switch_on("<script>")
    evil = '"><img src=x onerror=alert(1)>'
    bank_of(parts).submit(replace(told("70", 1.0, replace(CAT, label=evil, project=evil)), project=evil))
    shown = parts.memory_page.overview() + parts.memory_page.project(evil)
    assert "<img src=x" not in shown
    assert "&lt;img src=x" in shown
