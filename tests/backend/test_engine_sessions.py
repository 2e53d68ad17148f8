"""A labelling session over the HTTP door, on tiny models of every production family: text, then a click, then a reference."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from backend.app import create_app
from backend.assemble import assemble
from backend.settings import Settings
from tests.backend.decoders import tiny_bundles
from tests.backend.pictures import two_red_discs, two_shapes
from tests.backend.test_app import body, data_uri, key_point, predict, task

SAYS = {"type": "textarea", "from_name": "prompt", "to_name": "image", "value": {"text": ["red disc, not the square"]}}


@pytest.mark.parametrize("name", tiny_bundles.FAMILIES)
def test_text_then_a_click_then_another_click_then_labels(name: str, tmp_path: Path) -> None:
    bundle = tiny_bundles.write_bundle(name, tmp_path / "bundle")
    settings = Settings(engine=name, weights=bundle, home=tmp_path / "home", local_roots=str(tmp_path), device="cpu")
    parts = assemble(settings)
    here, there = data_uri(two_shapes()), data_uri(two_red_discs())
    with TestClient(create_app(parts)) as client:
        (said,) = predict(client, body(task(here), context={"result": [SAYS]}))
        (clicked,) = predict(client, body(task(here), context={"result": [key_point(70, 50)]}))
        again = {"result": [key_point(70, 50), key_point(20, 20, positive=False, number=1)]}
        (corrected,) = predict(client, body(task(here), context=again))
        (labelled,) = predict(client, body(task(there, 2)))
    version = parts.engine.version
    assert version.startswith(f"{name}-")
    assert {answer["model_version"] for answer in (said, clicked, corrected, labelled)} == {version}
    for answer in (said, clicked, corrected, labelled):
        assert 0 <= answer["score"] <= 1
        assert not any("failed" in str(region) for region in answer["result"])
    assert len(clicked["result"]) == 1
    assert len(corrected["result"]) == 1
    segmenter = parts.engine.segmenter()
    assert segmenter._cache.encoded == 2
