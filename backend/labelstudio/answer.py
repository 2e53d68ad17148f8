"""How masks become a prediction in Label Studio's words: which control draws them, under which label and id."""

from __future__ import annotations

import contextlib
import hashlib
import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from backend.labelstudio.config import ImageLabels, read_config
from backend.labelstudio.request.request import InteractionRequest, TaskRequest, is_interactive
from backend.labelstudio.request.typed import MESSAGE_SIGN
from backend.labelstudio.shapes import SHAPES
from backend.labelstudio.shapes.base import OURS
from backend.labelstudio.tags import ControlTag
from backend.labelstudio.video_config import VideoLabels, read_videos
from backend.values.errors import RequestError
from backend.values.masks import MaskSet, Region
from backend.values.morphology import smooth_runs
from prompts.phrases import Vocabulary

Json = dict[str, Any]
Choice = tuple[ControlTag, ControlTag | None, str]
"""The control that draws a region, the one that labels it if one does, and the label there."""
Names = Mapping[str, Sequence[Sequence[str]]]
"""For each Choices and Taxonomy that names regions, by the tag's name, the names of each row, the likeliest first."""
Ranking = Callable[[MaskSet, Vocabulary], Sequence[Sequence[str]]]
"""For each mask the names of a vocabulary, the likeliest first."""

_OF_PAGE = "="
"""What an id of the page begins with until the regions of an answer are numbered; no id that we make does."""
NO_NAMES: Names = MappingProxyType({})


def write_prediction(task: TaskRequest, masks: MaskSet, model_version: str, prefer: str = "", names: Names = NO_NAMES) -> Json:
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


def names_of(masks: MaskSet, task: TaskRequest, rank: Ranking) -> Names:
    """For each tag of the labelling config that names regions the names of every row, as ``rank`` has them."""
    return {naming.name: rank(masks, naming.vocabulary) for naming in task.labels.namings}


def number_regions(answer: Json, name: str) -> Json:
    """An answer whose regions say in their ids from which answer they are; the results of one shape still share one. One under
    an id of the page keeps it.
    """
    rows: dict[str, int] = {}

    def numbered(old: str) -> str:
        return old.removeprefix(_OF_PAGE) if old.startswith(_OF_PAGE) else f"{OURS}{name}_{rows.setdefault(old, len(rows)):x}"

    result = [{**item, "id": numbered(item["id"])} for item in answer.get("result", ())]
    return {**answer, "result": result} if "result" in answer else answer


def new_answer() -> str:
    """The name of an answer that nobody else has."""
    return uuid.uuid4().hex[:10]


def repeatable_answer(answer: Json, *facts: str) -> str:
    """The name of an answer to a question with these facts: the same for the same answer."""
    plain = json.dumps([number_regions(answer, ""), facts], sort_keys=True)
    return hashlib.blake2b(plain.encode(errors="surrogatepass"), digest_size=5).hexdigest()


def answer_of(region: str) -> str:
    """The name of the answer that a region is from, by the region's id; empty for one that is not ours."""
    return region.removeprefix(OURS).partition("_")[0] if region.startswith(OURS) else ""


def under_id(prediction: Json, name: str) -> Json:
    """The same with its first region under an id that the page knows: accepted there, it takes the place of the region that has
    the id (Label Studio 1.23, ``acceptSuggestion``).
    """
    first = prediction["result"][0]["id"] if prediction["result"] else None
    result = [{**item, "id": f"{_OF_PAGE}{name}"} if item["id"] == first else item for item in prediction["result"]]
    return {**prediction, "result": result}


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
    labels = next((labels for labels in _objects(str(body.get("label_config"))) if labels.text_areas), None)
    return write_empty(model_version) if labels is None else tell(labels, text, model_version)


def _objects(xml: str) -> Iterator[ImageLabels | VideoLabels]:
    """The images of a labelling config, then its videos; none of one that cannot be read."""
    with contextlib.suppress(RequestError):
        videos = read_videos(xml)
        with contextlib.suppress(RequestError):
            config = read_config(xml)
            yield from map(config.labels_of, config.images)
        yield from videos


def write_message(task: TaskRequest, text: str, model_version: str) -> Json:
    """A sentence for the annotator, which the page shows in a TextArea at once; an empty answer where there is nobody to read
    it or no TextArea. A TextArea named ``message`` or ``messages`` is preferred.
    """
    if not task.labels.text_areas or not isinstance(task, InteractionRequest):
        return write_empty(model_version)
    return tell(task.labels, text, model_version, task.image.item_index)


def tell(labels: ImageLabels | VideoLabels, text: str, model_version: str, page: int | None = None) -> Json:
    """The answer that is a sentence for the annotator, in one of the TextAreas that there are."""
    areas = labels.text_areas
    area = next((area for area in areas if area.name.lower() in ("message", "messages")), areas[0])
    paged = {} if page is None or not area.is_on("peritem") else {"item_index": page}
    head = {
        "id": _new_id(),
        **_tag(area),
        "to_name": labels.image.name if isinstance(labels, ImageLabels) else labels.name,
        **paged,
    }
    return {"result": [{**head, "value": {"text": [f"{MESSAGE_SIGN} {text}"]}}], "score": 0.0, "model_version": model_version}


def _write_region(task: TaskRequest, region: Region, chosen: Choice, names: Mapping[str, Sequence[str]]) -> Iterator[Json]:
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


def _head(task: TaskRequest, control: ControlTag) -> Json:
    page = {} if task.image.item_index is None else {"item_index": task.image.item_index}
    return {"id": _new_id(), **_tag(control), "to_name": task.labels.image.name, **page}


def _new_id() -> str:
    return f"{OURS}{uuid.uuid4().hex[:10]}"


def _tag(control: ControlTag) -> Json:
    return {"from_name": control.name, "type": control.type}
