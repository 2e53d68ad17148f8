"""How masks become a prediction in Label Studio's words: which control draws them, under which label and id."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from backend.labelstudio.config import ImageLabels, read_config
from backend.labelstudio.request.request import InteractionRequest, TaskRequest, is_interactive
from backend.labelstudio.request.typed import tell
from backend.labelstudio.request.video import VideoLabels, read_videos
from backend.labelstudio.shapes import SHAPES
from backend.labelstudio.shapes.base import Answer, new_id, under_id, write_empty, write_failure
from backend.labelstudio.tags import ControlTag
from backend.values.errors import RequestError
from backend.values.masks import MaskSet, Region
from backend.values.morphology import smooth_runs
from prompts.phrases import Vocabulary

Choice = tuple[ControlTag, ControlTag | None, str]
"""The control that draws a region, the one that labels it if one does, and the label there."""
Names = Mapping[str, Sequence[Sequence[str]]]
"""For each Choices and Taxonomy that names regions, by the tag's name, the names of each row, the likeliest first."""
Ranking = Callable[[MaskSet, Vocabulary], Sequence[Sequence[str]]]
"""For each mask the names of a vocabulary, the likeliest first."""

NO_NAMES: Names = MappingProxyType({})


def write_prediction(
    task: TaskRequest, masks: MaskSet, model_version: str, prefer: str = "", names: Names = NO_NAMES
) -> Answer:
    """The prediction of one task: each region once, by the first control of the config that has the region's label.

    Controls come in the order of the table of shapes, but first those that draw the shape that the label asks for, or else
    ``prefer``. The score is the mean of the regions' scores, 0 without regions. Without ``names`` a region's label is its only
    name. When no control has the label of any region, the annotator is told.
    """
    result, scores, undrawn = [], [], set()
    armed = task.armed_label if isinstance(task, InteractionRequest) else None
    for row, region in enumerate(masks):
        chosen = _choose(task.labels, region.label or armed, prefer)
        if chosen is None:
            undrawn.add(str(region.label))
            continue
        names_of_row = {tag: ranked[row] for tag, ranked in names.items()}
        written = list(_write_region(task, region, chosen, names_of_row))
        result.extend(written)
        scores.extend([region.score] if written else [])
    if undrawn and not result:
        return write_message(task, f"no tag of the labelling config draws regions labelled {sorted(undrawn)}", model_version)
    return {"result": result, "score": sum(scores) / len(scores) if scores else 0.0, "model_version": model_version}


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What was found on one image of a task: the masks, and the names of each row by the tags that name regions; where regions
    of the page are changed the shape to prefer, and of a single one the id.
    """

    task: TaskRequest
    masks: MaskSet
    names: Names
    form: str = ""
    id: str = ""

    def write(self, version: str, form: str) -> Answer:
        """Its part of the prediction."""
        written = write_prediction(self.task, self.masks, version, self.form or form, self.names)
        return under_id(written, self.id) if self.id else written


def names_of(masks: MaskSet, task: TaskRequest, rank: Ranking) -> Names:
    """For each tag of the labelling config that names regions the names of every row, as ``rank`` has them."""
    return {naming.name: rank(masks, naming.vocabulary) for naming in task.labels.namings}


def write_refusal(body: Any, text: str, model_version: str) -> Answer:
    """The answer to a request that could not be read: a failure or, to an interactive one, a sentence in the first TextArea of
    its first image, if its labelling config has one.
    """
    if not is_interactive(body):
        return write_failure(text, model_version)
    labels = next((labels for labels in _objects(str(body.get("label_config"))) if labels.text_areas), None)
    if labels is None:
        return write_empty(model_version)
    return tell(labels.text_areas, _name_of(labels), text, model_version)


def _objects(xml: str) -> Iterator[ImageLabels | VideoLabels]:
    """The images of a labelling config, then its videos; none of one that cannot be read."""
    with contextlib.suppress(RequestError):
        videos = read_videos(xml)
        with contextlib.suppress(RequestError):
            config = read_config(xml)
            yield from map(config.labels_of, config.images)
        yield from videos


def _name_of(labels: ImageLabels | VideoLabels) -> str:
    return labels.image.name if isinstance(labels, ImageLabels) else labels.name


def write_message(task: TaskRequest, text: str, model_version: str) -> Answer:
    """A sentence for the annotator, which the page shows in a TextArea at once; an empty answer where there is nobody to read
    it or no TextArea. A TextArea named ``message`` or ``messages`` is preferred.
    """
    if not task.labels.text_areas or not isinstance(task, InteractionRequest):
        return write_empty(model_version)
    return tell(task.labels.text_areas, task.labels.image.name, text, model_version, task.image.item_index)


def _write_region(task: TaskRequest, region: Region, chosen: Choice, names: Mapping[str, Sequence[str]]) -> Iterator[Answer]:
    """The results of a region: one for each of its polygons, else one; with ``<Labels>`` a second with the label; and one for
    each tag that names it. Those of one shape share an id.
    """
    shape_control, label_control, label = chosen
    size, drawing = region.runs.size, task.labels.drawing_of(region.label or label, shape_control)
    if region.runs.area < drawing.min_area and not task.points_at_one:
        return
    for shape in SHAPES[_form(shape_control)].write_with(
        smooth_runs(region.runs, drawing.smooth), task.points or drawing.points
    ):
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
        for naming in task.labels.namings:
            if value := naming.value(names.get(naming.name, [region.label or ""])):
                yield {**head, "from_name": naming.name, "type": naming.type, "value": value}


def _choose(labels: ImageLabels, sent: str | None, prefer: str) -> Choice | None:
    """The best control for a region with this label; None when no control has the label.

    A region without a label is given the only label that there is, if there is just one; and so is one that Choices or a
    Taxonomy name, for which a tool without labels will do, too.
    """
    separate = [control for control in labels.controls if control.type == "labels"]
    for control in _outputs(labels.controls, labels.output_of(sent) or prefer):
        for tag in [control] if control.type.endswith("labels") else separate:
            label = tag.value_of(sent) if sent is not None and not labels.class_namings else _only(tag)
            if label is not None:
                return control, tag, label
        if labels.class_namings and not control.type.endswith("labels"):
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


def _head(task: TaskRequest, control: ControlTag) -> Answer:
    page = {} if task.image.item_index is None else {"item_index": task.image.item_index}
    return {"id": new_id(), **_tag(control), "to_name": task.labels.image.name, **page}


def _tag(control: ControlTag) -> Answer:
    return {"from_name": control.name, "type": control.type}
