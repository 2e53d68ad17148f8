"""Requests that a real Label Studio 1.23.2 sent, and variations of them; long values are shortened."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from backend.labelstudio.request.request import InteractionRequest, PreannotationRequest, Request, read_predict

FOLDER = Path(__file__).parent / "payloads"
NAMES = tuple(sorted(file.stem for file in FOLDER.glob("*.json")))


def body(name: str) -> dict[str, Any]:
    """The body of one request, to be changed at will."""
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))["body"]


def only_task(request: dict[str, Any]) -> Request:
    """The one task of a request, which must be readable."""
    (task,) = read_predict(request)
    assert isinstance(task, PreannotationRequest | InteractionRequest), task
    return task


def prompted(*items: dict[str, Any], config: str | None = None, **task: Any) -> dict[str, Any]:
    """The captured click with other regions in its context, another config, and other parts of its task."""
    request = body("interactive_keypoint_3_with_negative")
    request["params"]["context"] = {"result": [copy.deepcopy(item) for item in items]}
    request["tasks"][0].update(task)
    request["label_config"] = config or request["label_config"]
    return request


def point(x: float = 50, y: float = 50, label: str = "Cat", **more: Any) -> dict[str, Any]:
    value = {"x": x, "y": y, "width": 0.2, "keypointlabels": [label]}
    item = {
        "id": f"p{x}-{y}",
        "type": "keypointlabels",
        "from_name": "kp",
        "to_name": "image",
        "is_positive": True,
        "value": value,
    }
    return {**item, **more}


def box(x: float, y: float, width: float, height: float, **more: Any) -> dict[str, Any]:
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0, "rectanglelabels": ["Cat"]}
    item = {
        "id": f"b{x}-{y}",
        "type": "rectanglelabels",
        "from_name": "rect",
        "to_name": "image",
        "origin": "manual",
        "value": value,
    }
    return {**item, **more}


def text(*lines: str, **more: Any) -> dict[str, Any]:
    return {"id": "t", "type": "textarea", "from_name": "prompt", "to_name": "image", "value": {"text": list(lines)}, **more}
