"""How masks become a prediction in Label Studio's words: which control draws them, under which label and id."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from backend.labelstudio.config import ControlTag, read_config
from backend.labelstudio.request.context import MESSAGE_SIGN
from backend.labelstudio.request.drafts import OURS
from backend.labelstudio.request.request import TaskRequest, is_interactive
from backend.labelstudio.shapes import SHAPES
from backend.values.errors import RequestError
from backend.values.masks import MaskSet, Region

Json = dict[str, Any]
Choice = tuple[ControlTag, ControlTag | None, str]
"""The control that draws a region, the one that labels it if one does, and the label there."""
Names = Mapping[str, Sequence[Sequence[str]]]
"""For each Choices and Taxonomy that names regions, by the tag's name, the names of each row, the likeliest first."""

NO_NAMES: Names = MappingProxyType({})


def write_prediction(task: TaskRequest, masks: MaskSet, model_version: str, prefer: str = "", names: Names = NO_NAMES) -> Json:
    """The prediction of one task: each region once, by the first control of the config that has the region's label.

    Controls come in the order of the table of shapes, but first those that draw the shape that the label asks for, or else
    ``prefer``. The score is the mean of the regions' scores, 0 without regions. Without ``names`` a region's label is its only
    name. When no control has the label of any region, the annotator is told.
    """
    result, scores, undrawn = [], [], set()
    for row, region in enumerate(masks):
        chosen = _choose(task, region.label or task.armed_label, prefer)
        if chosen is None:
            undrawn.add(str(region.label))
            continue
        names_of_row = {tag: ranked[row] for tag, ranked in names.items()}
        written = list(_write_region(task, region, chosen, names_of_row))
        result.extend(written)
        scores.extend([region.score] if written else [])
    if undrawn and not result:
        return write_message(
            task, f"no control of the labelling config draws regions labelled {sorted(undrawn)}", model_version
        )
    return {"result": result, "score": sum(scores) / len(scores) if scores else 0.0, "model_version": model_version}


def write_empty(model_version: str) -> Json:
    """The answer that there is nothing."""
    return {"result": [], "score": 0.0, "model_version": model_version}


def write_failure(text: str, model_version: str) -> Json:
    """The answer for a task that has none because something failed. Label Studio (1.23) logs an answer without a ``result`` and
    stores nothing, so that the task still counts as one without a prediction; an empty ``result`` it would store for good.
    """
    return {"error": text, "score": 0.0, "model_version": model_version}


def write_together(parts: Sequence[Json], model_version: str) -> Json:
    """One prediction of what was found on several images of a task; the score is the mean over the images with regions."""
    scores = [part["score"] for part in parts if part["result"]]
    result = [item for part in parts for item in part["result"]]
    return {"result": result, "score": sum(scores) / len(scores) if scores else 0.0, "model_version": model_version}


def write_refusal(body: Any, text: str, model_version: str) -> Json:
    """The answer to a request that could not be read: a failure or, to an interactive one, a sentence in the first TextArea of
    its first image, if its labelling config has one.
    """
    if not is_interactive(body):
        return write_failure(text, model_version)
    try:
        config = read_config(str(body.get("label_config")))
    except RequestError:
        return write_empty(model_version)
    images = [image.name for image in config.images if config.text_areas_of(image.name)]
    if not images:
        return write_empty(model_version)
    area = _message_area(config.text_areas_of(images[0]))
    return _message(area, images[0], text, model_version)


def write_message(task: TaskRequest, text: str, model_version: str) -> Json:
    """A sentence for the annotator, which the page shows in a TextArea at once; an empty answer where there is nobody to read
    it or no TextArea. A TextArea named ``message`` or ``messages`` is preferred.
    """
    areas = task.config.text_areas_of(task.image_tag) if task.interactive else ()
    if not areas:
        return write_empty(model_version)
    answer = _message(area := _message_area(areas), task.image_tag, text, model_version)
    if area.is_on("peritem") and task.item_index is not None:
        answer["result"][0]["item_index"] = task.item_index
    return answer


def _message_area(areas: Sequence[ControlTag]) -> ControlTag:
    return next((area for area in areas if area.name.lower() in ("message", "messages")), areas[0])


def _message(area: ControlTag, image: str, text: str, model_version: str) -> Json:
    head = {"id": _new_id(), **_tag(area), "to_name": image}
    return {"result": [{**head, "value": {"text": [f"{MESSAGE_SIGN} {text}"]}}], "score": 0.0, "model_version": model_version}


def _write_region(task: TaskRequest, region: Region, chosen: Choice, names: Mapping[str, Sequence[str]]) -> Iterator[Json]:
    """The results of a region: one for each of its polygons, else one; with ``<Labels>`` a second with the label; and one for
    each tag that names it. Those of one shape share an id.
    """
    shape_control, label_control, label = chosen
    size = region.runs.size
    for shape in SHAPES[_form(shape_control)].write(region.runs):
        common = {
            "original_width": size.width,
            "original_height": size.height,
            "image_rotation": 0,
            "score": round(float(region.score), 6),
            "meta": {"text": [", ".join(filter(None, (task.origin or f'label name "{region.label or label}"', shape.note)))]},
        }
        head = {**_head(task, shape_control), **common}
        if label_control is shape_control:
            yield {**head, "value": {**shape.value, label_control.type: [label]}}
        else:
            yield {**head, "value": shape.value}
        if label_control not in (None, shape_control):
            yield {**head, **_tag(label_control), "value": {**shape.value, "labels": [label]}}
        for naming in task.config.namings_of(task.image_tag):
            if value := naming.value(names.get(naming.name, [region.label or ""])):
                yield {**head, "from_name": naming.name, "type": naming.type, "value": value}


def _choose(task: TaskRequest, sent: str | None, prefer: str) -> Choice | None:
    """The best control for a region with this label; None when no control has the label.

    A region without a label is given the only label that there is, if there is just one; and so is one that Choices or a
    Taxonomy name, for which a tool without labels will do, too.
    """
    controls = task.config.controls_of(task.image_tag)
    separate = [control for control in controls if control.type == "labels"]
    is_named_elsewhere = task.config.is_named_by_region
    for control in _outputs(controls, task.config.output_of(sent) or prefer):
        for labels in [control] if control.type.endswith("labels") else separate:
            label = labels.value_of(sent) if sent is not None and not is_named_elsewhere else _only(labels)
            if label is not None:
                return control, labels, label
        if is_named_elsewhere and not control.type.endswith("labels"):
            return control, None, sent or ""
    return None


def _outputs(controls: Sequence[ControlTag], prefer: str) -> list[ControlTag]:
    """The controls that draw regions, best first; those that only prompt (spots, ``smartOnly``, a role) if there are no
    others.
    """
    forms = sorted(SHAPES, key=lambda form: form != prefer)
    drawing = sorted(filter(_form, controls), key=lambda control: forms.index(_form(control)))
    outputs = [control for control in drawing if SHAPES[_form(control)].covers and not (control.is_smart_only or control.role)]
    return outputs or drawing


def _only(control: ControlTag) -> str | None:
    return control.labels[0] if len(control.labels) == 1 else None


def _form(control: ControlTag) -> str:
    """Which shape a control draws: ``brush`` for Brush and BrushLabels; empty when it draws none."""
    form = control.type.removesuffix("labels")
    return form if form in SHAPES else ""


def _head(task: TaskRequest, control: ControlTag) -> Json:
    page = {} if task.item_index is None else {"item_index": task.item_index}
    return {"id": _new_id(), **_tag(control), "to_name": task.image_tag, **page}


def _new_id() -> str:
    return f"{OURS}{uuid.uuid4().hex[:10]}"


def _tag(control: ControlTag) -> Json:
    return {"from_name": control.name, "type": control.type}
