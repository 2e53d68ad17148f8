"""Over HTTP: what was answered is compared with what comes back, whether or not Label Studio tells what was viewed."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from backend.assemble import Parts, assemble
from backend.labelstudio.shapes.base import answer_of
from backend.labelstudio.verdicts import is_canary
from backend.stores.balance import Balance
from backend.stores.curation import Curation
from backend.stores.database import Database
from backend.stores.memory import MemoryBank
from backend.values.settings import Settings
from tests.backend.annotator import CONFIG, Annotator, click, shape_of
from tests.backend.conftest import Path


def pre_annotate(client: TestClient, image: Path) -> list[dict[str, Any]]:
    body = {"tasks": [{"id": 1, "data": {"image": str(image)}}], "project": "1.17", "label_config": WORDS}
    (answer,) = client.post("/predict", json=body).json()["results"]
    return list(answer["result"])


WORDS = CONFIG.replace('<Label value="Ball"/>', '<Label value="Ball" predicted_values="red"/>').replace(
    '<Label value="Box"/>', '<Label value="Box" predicted_values="blue"/>'
)


@pytest.fixture
def database(parts: Parts) -> Database:
    return Database(parts.settings.database_url)


def submitted(parts: Parts, ann: Annotator) -> None:
    parts.recorder.wait()
    ann.submit()
    parts.webhooks.wait()


def test_an_annotation_is_compared_with_what_the_server_answered_before(
    ann: Annotator, parts: Parts, database: Database, folder: Path
) -> None:
    regions = pre_annotate(ann.client, folder / "a.png")
    assert {answer_of(region["id"]) for region in regions} == {answer_of(regions[0]["id"])} != {""}
    left, *others = sorted(regions, key=lambda region: -len(region["value"]["rle"]))
    (clicked,) = ann.ask(click(85, 75))
    ann.drawn = [{**left, "origin": "prediction"}, {**clicked, "origin": "manual"}]
    submitted(parts, ann)
    bank = MemoryBank(database)
    key = next(iter(project for project in ("1", "1.17", "1.17@1", "1@1") if bank.labels(project)))
    found = {each.region: str(each.verdict) for each in bank.recall(key, "Ball", 9) + bank.recall(key, "Box", 9)}
    assert found == {left["id"]: "accepted", clicked["id"]: "missed"}
    rejected = bank.rejected(key, "Ball", 9) + bank.rejected(key, "Box", 9)
    assert {each.region for each in rejected} == {each["id"] for each in others}
    assert {each.engine for each in rejected} == {parts.engine.version}
    assert sum(row.prompts for row in Balance(database).rows(key)) == 1


def test_failures_are_no_answers(ann: Annotator, parts: Parts, database: Database, folder: Path) -> None:
    body = {"tasks": [{"id": 1, "data": {"image": str(folder / "gone.png")}}], "project": "1.17", "label_config": WORDS}
    ann.client.post("/predict", json=body)
    ann.drawn = [click(35, 45)]
    submitted(parts, ann)
    assert Balance(database).rows("1") == []


class TestCanaries:
    """On a server that damages half of its suggestions."""

    @pytest.fixture
    def parts(self, folder: Path) -> Parts:
        return assemble(Settings(engine="colour", home=folder / "home", local_roots=str(folder), canaries=0.5))

    def test_canaries_are_counted_by_who_notices_them_and_never_remembered(
        self, ann: Annotator, parts: Parts, database: Database, folder: Path
    ) -> None:
        regions: list[dict[str, Any]] = []
        while not 0 < sum(is_canary(region["id"]) for region in regions) < len(regions):
            regions = pre_annotate(ann.client, folder / "a.png")
        damaged = [region for region in regions if is_canary(region["id"])]
        ann.drawn = [{**region, "origin": "prediction"} for region in regions]
        submitted(parts, ann)
        ((key, _),) = Curation(database).projects().items()
        assert MemoryBank(database).labels(key).keys() <= {"Ball", "Box"}
        assert sum(MemoryBank(database).labels(key).values()) == len(regions) - len(damaged)
        rows = Balance(database).rows(key)
        counts = (sum(row.accepted for row in rows), sum(row.noticed for row in rows), sum(row.overlooked for row in rows))
        assert counts == (len(regions) - len(damaged), 0, len(damaged))

        ann.drawn = [{**region, "origin": "prediction"} for region in regions if region not in damaged]
        submitted(parts, ann)
        assert MemoryBank(database).rejected(key, "Ball", 9) == MemoryBank(database).rejected(key, "Box", 9) == []
        assert sum(row.noticed for row in Balance(database).rows(key)) == len(damaged)
        MemoryBank(database).forget(key, annotations=["10"])
        assert Balance(database).rows(key) == []

    def test_what_is_clicked_is_never_damaged(self, ann: Annotator) -> None:
        found = [ann.ask(click(35, 45))[0] for _ in range(20)]
        assert not any(is_canary(region["id"]) for region in found)
        assert {shape_of(region) for region in found} == {"left"}
