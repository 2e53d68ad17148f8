"""What Label Studio asks: the body of ``/predict`` as one request for each task, a pre-annotation or an interaction."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from backend.labelstudio.config import ImageLabels, LabelConfig, lookup, read_config
from backend.labelstudio.request.context import (
    Context,
    ReferenceRequest,
    current_marks,
    marks_of_the_object,
    prompts_of,
    read_context,
    reference_marks,
    reference_requests,
    result_marks,
)
from backend.labelstudio.request.typed import Typed
from backend.labelstudio.request.video import FilmRequest, is_about_video, read_film_request
from backend.labelstudio.shapes import RegionMark
from backend.labelstudio.shapes.base import Json, annotator, in_number, mappings, newest_draft, saved_at, saved_ids
from backend.labelstudio.shapes.marks import BoxMark, Mark, PointMark
from backend.labelstudio.tags import Role
from backend.values.errors import RequestError
from prompts.geometry import Size
from prompts.kinds import Prompt, PromptError, PromptSet
from prompts.phrases import Vocabulary

MOST_FURTHER = 100
"""More images of one task than this are not pre-annotated."""


@dataclass(frozen=True, slots=True)
class TaskImage:
    """One image of a task: what the config offers on it, its address, and its page in a ``valueList``, else None."""

    labels: ImageLabels
    url: str
    item_index: int | None


@dataclass(frozen=True, slots=True)
class Draft:
    """What the annotator's newest draft says: when it was saved, which regions it holds, which smart prompts in it are current,
    with their classes, and, where more like them are wanted, which regions are results.
    """

    saved_at: float = field(default=0.0, compare=False, repr=False)
    ids: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    current: tuple[tuple[str | None, Mark], ...] = ()
    results: tuple[RegionMark, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """A task of a project, and the image of it that is asked about.

    What has a say in the answer is compared and shown by every part of a request; nothing else is.
    """

    project: str
    task_id: str
    image: TaskImage

    @property
    def labels(self) -> ImageLabels:
        """What the labelling config offers on the image."""
        return self.image.labels

    @property
    def image_url(self) -> str:
        return self.image.url

    @property
    def vocabulary(self) -> Vocabulary:
        """The labels to answer with."""
        return self.labels.vocabulary

    @property
    def origin(self) -> str:
        """In words, what the answer is made from; empty for a pre-annotation."""
        return ""

    @property
    def points(self) -> int:
        """How many points a polygon of the answer may have; 0 where nobody asked for a number."""
        return 0

    @property
    def points_at_one(self) -> bool:
        """Whether somebody points at one thing, which is answered however small it is."""
        return False

    def fingerprint(self) -> str:
        """A hash of everything that determines the answer; region ids and old regions do not."""
        return hashlib.blake2b(repr(self).encode(errors="surrogatepass"), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class PreannotationRequest(TaskRequest):
    """A task on which nothing was drawn or typed: all its images are to be answered from the labels alone.

    ``further`` are the images after the first. ``sought`` are the labels to look for where not all of the config are wanted, or
    other phrases for them.
    """

    further: tuple[TaskImage, ...] = ()
    sought: Vocabulary | None = None

    @property
    def vocabulary(self) -> Vocabulary:
        if self.sought is None:
            return self.labels.vocabulary
        return Vocabulary(tuple(entry for entry in self.sought.entries if entry.label in self.labels.vocabulary.labels))

    def images(self) -> Iterator[PreannotationRequest]:
        """A request for each image."""
        for image in (self.image, *self.further):
            yield replace(self, image=image, further=())


@dataclass(frozen=True, slots=True)
class InteractionRequest(TaskRequest):
    """What an annotator prompted on one image.

    ``marks`` are in percent until the image is known; ``ambiguous`` are rectangles that may be prompts or ordinary. ``regions``
    and ``references`` were drawn with labels that have a role. ``most_points`` are those of a polygon in the answer, 0 for the
    usual number.
    """

    annotator: str = ""
    armed_label: str | None = None
    marks: tuple[Mark, ...] = ()
    ambiguous: tuple[BoxMark, ...] = ()
    regions: tuple[RegionMark, ...] = ()
    references: tuple[RegionMark, ...] = ()
    typed: Typed = field(default_factory=Typed)
    draft: Draft = field(default_factory=Draft)
    most_points: int = 0

    def prompts(self, size: Size) -> PromptSet:
        """The prompts in pixels of the upright image, without examples. Regions that cannot be read, and clicks and boxes
        outside the image, are left out while there is anything else.

        Raises:
            RequestError: every click and box lies outside the image, and no region can be read.
        """
        marks = [self._prompt_of(mark, size) for mark in self.marks]
        regions, errors = prompts_of(self.regions, size) if self.regions else ([], [])
        errors = [mark for mark in marks if isinstance(mark, RequestError)] + errors
        inside = (mark for mark in marks if not isinstance(mark, RequestError))
        prompts = PromptSet((*inside, *regions, *self.typed.texts))
        if errors and not len(prompts):
            raise RequestError(f"task {self.task_id}: {errors[0]}") from errors[0]
        return prompts

    def _prompt_of(self, mark: Mark, size: Size) -> Prompt | RequestError:
        try:
            prompt = mark.prompt(size)
            PromptSet((prompt,)).check_against(size)
        except PromptError:
            return RequestError(f"{mark} lies outside the image of {size.width} x {size.height} pixels")
        return prompt

    @property
    def asks_for_likeness(self) -> bool:
        """Whether what resembles examples is wanted, drawn or typed ones."""
        return bool(self.references or self.typed.references)

    def reference_requests(self) -> list[ReferenceRequest]:
        """The examples that the answer is to resemble, or not to resemble.

        Raises:
            RequestError: it is to resemble a label that the config lacks.
        """
        if not self.asks_for_likeness:
            return []
        return reference_requests(self.references, self.typed.references, self.draft.results, self.labels)

    @property
    def answer_label(self) -> str | None:
        """The class of the answer: the one that is selected, unless it only carries names; or that of what it is to resemble,
        when the examples say one and the same.
        """
        if self.armed_label is not None and not self.labels.class_namings:
            return self.armed_label
        typed = {self.labels.value_of(each.label) for each in self.typed.references if each.label and each.positive}
        shown = {mark.label for mark in self.references if mark.role is Role.REFERENCE}
        said = typed or shown
        return next(iter(said)) if len(said) == 1 else None

    @property
    def points(self) -> int:
        return self.most_points

    @property
    def points_at_one(self) -> bool:
        return bool(self.marks or self.regions or self.typed.edits)

    @property
    def origin(self) -> str:
        points = [mark for mark in self.marks if isinstance(mark, PointMark)]
        against = sum(not point.positive for point in points)
        roles = [mark.role for mark in self.regions]
        said = [
            in_number(len(points) - against, "click"),
            in_number(against, "click against"),
            in_number(len(self.marks) - len(points), "box"),
            in_number(roles.count(Role.FOR), "mark"),
            in_number(roles.count(Role.AGAINST), "mark against"),
            in_number(roles.count(Role.REFINE), "mask"),
            in_number(len(self.references), "reference"),
            *(f"{'' if each.positive else 'not '}like {each.label or 'this'}" for each in self.typed.references),
            *(f'text "{text.phrase}"' if text.positive else f'not "{text.phrase}"' for text in self.typed.texts),
            *map(str, self.typed.edits),
        ]
        return ", ".join(filter(None, said))


Request = PreannotationRequest | InteractionRequest | FilmRequest


def read_predict(body: Json) -> list[Request | RequestError]:
    """The tasks of a ``/predict`` body, in order; a task that cannot be read is the error that says why.

    A context with regions is an interaction; ``null``, ``{}`` and an empty ``result`` ask for a pre-annotation.

    Raises:
        RequestError: the body has no list of tasks.
    """
    tasks = body.get("tasks") if isinstance(body, Mapping) else None
    if not isinstance(tasks, list):
        raise RequestError("expected a body with a list under 'tasks'")
    return [_read_or_refuse(body, task) for task in tasks]


def is_interactive(body: Any) -> bool:
    """Whether somebody drew or typed something; otherwise the body asks for pre-annotations."""
    return isinstance(body, Mapping) and _context_items(body) is not None


def _read_or_refuse(body: Json, task: Any) -> Request | RequestError:
    try:
        if not isinstance(task, Mapping):
            raise RequestError("expected an object")
        return _read_task(body, task)
    except RequestError as error:
        name = _text(task.get("id")) if isinstance(task, Mapping) else ""
        return type(error)(f"task {name or '?'}: {error}")


def _read_task(body: Json, task: Json) -> Request:
    xml, data = body.get("label_config"), task.get("data")
    if not isinstance(xml, str) or not isinstance(data, Mapping):
        raise RequestError("expected a text under 'label_config' and an object under the task's 'data'")
    project, task_id = _text(body.get("project")), _text(task.get("id"))
    items = _context_items(body)
    if "video" in xml.lower() and is_about_video(xml, items):
        return read_film_request(project, task, xml, items)
    config = read_config(xml).for_task(data)
    if items is None:
        first = _task_image(config.labels_of(config.first_image), data, 0)
        return PreannotationRequest(project, task_id, first, _further(config, data, first))
    context = read_context(items, config, task)
    image = _task_image(context.labels, data, context.page)
    return InteractionRequest(
        project=project,
        task_id=task_id,
        image=image,
        annotator=annotator(task),
        armed_label=context.armed_label,
        marks=context.marks,
        ambiguous=context.ambiguous,
        regions=_regions(task, context),
        references=_references(task, context),
        typed=context.typed,
        draft=_draft(task, context),
    )


def _regions(task: Json, context: Context) -> tuple[RegionMark, ...]:
    """What is marked for the object: with the prompt itself and in the draft, which may hold the prompt as it was before it was
    moved; examples are asked about alone.
    """
    if context.references or context.typed.references:
        return ()
    saved = marks_of_the_object(task, context.labels, context.page) if context.labels.has_roles else ()
    return tuple({mark.id or mark.digest: mark for mark in (*saved, *context.regions)}.values())


def _references(task: Json, context: Context) -> tuple[RegionMark, ...]:
    """The examples that the prompt itself shows, and with "like this" those of the draft and the annotations."""
    if all(reference.label is not None for reference in context.typed.references):
        return context.references
    return (*context.references, *reference_marks(task, context.labels, context.page))


def _draft(task: Json, context: Context) -> Draft:
    """Results are read only where more like them are wanted, or are edited: a draft may hold hundreds of large masks."""
    are_results_wanted = context.references or context.typed.references or context.typed.edits
    return Draft(
        saved_at(newest_draft(task)),
        saved_ids(task),
        tuple(current_marks(task, context.labels, context.page)),
        tuple(result_marks(task, context.labels, context.page)) if are_results_wanted else (),
    )


def _further(config: LabelConfig, data: Json, first: TaskImage) -> tuple[TaskImage, ...]:
    """The other images of a task that can be drawn on; those without an address are left out."""
    found = []
    for labels in filter(lambda labels: labels.controls, map(config.labels_of, config.images)):
        pages = lookup(labels.image.source, data)
        for page in range(min(len(pages), MOST_FURTHER + 1) if isinstance(pages, list) else 1):
            with contextlib.suppress(RequestError):
                found.append(_task_image(labels, data, page))
    return tuple(image for image in found if image != first)[:MOST_FURTHER]


def _context_items(body: Json) -> list[Json] | None:
    """The regions of the request's context; None when nothing was drawn or typed, which asks for a pre-annotation."""
    params = body.get("params")
    context = params.get("context") if isinstance(params, Mapping) else None
    result = context.get("result") if isinstance(context, Mapping) else None
    return list(mappings(result)) if isinstance(result, list) and result else None


def _task_image(labels: ImageLabels, data: Json, page: int) -> TaskImage:
    """An image of a task; the page is None when the tag shows a single image. Raises RequestError when it has no address."""
    source = labels.image.source
    found = lookup(source, data)
    if isinstance(found, list) and page >= len(found):
        raise RequestError(f"the image list '{source}' has {len(found)} pages, so there is no page {page}")
    url = found[page] if isinstance(found, list) else found
    if not isinstance(url, str) or not url.strip():
        raise RequestError(f"the task's data has no image address for '{source}'")
    return TaskImage(labels, url.strip(), page if isinstance(found, list) else None)


def _text(found: Any) -> str:
    return str(found) if isinstance(found, str | int | float) else ""
