"""What Label Studio asks: the body of ``/predict`` as one request for each task."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend.errors import RequestError
from backend.labelstudio import drafts
from backend.labelstudio.config import ImageTag, LabelConfig, lookup, read_config
from backend.labelstudio.context import Mark, read_context
from backend.labelstudio.tags.keypoint import PointMark
from prompts.geometry import Size
from prompts.kinds import PromptError, PromptSet, TextPrompt
from prompts.phrases import Vocabulary

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """One task to answer: its image, the labels to answer with, and what was drawn and typed.

    ``marks`` are in percent until the image is known. ``item_index`` is the page of a ``valueList``, else None.
    """

    project: str
    task_id: str
    annotator: str
    config: LabelConfig
    vocabulary: Vocabulary
    image_tag: str
    image_url: str
    item_index: int | None
    interactive: bool
    armed_label: str | None = None
    marks: tuple[Mark, ...] = ()
    texts: tuple[TextPrompt, ...] = ()

    def prompts(self, size: Size) -> PromptSet:
        """The prompts in pixels of the upright image; none for a pre-annotation.

        Raises:
            RequestError: a prompt lies outside the image.
        """
        try:
            prompts = PromptSet((*(mark.prompt(size) for mark in self.marks), *self.texts))
            prompts.check_against(size)
        except PromptError as error:
            raise RequestError(f"task {self.task_id}: {error}") from error
        return prompts

    def fingerprint(self) -> str:
        """A hash of everything that determines the answer; region ids and old regions do not."""
        parts = (
            (self.project, self.task_id, self.annotator, self.config.xml, self.vocabulary, self.image_tag, self.image_url),
            (self.item_index, self.interactive, self.armed_label, self.marks, self.texts),
        )
        return hashlib.blake2b(repr(parts).encode(errors="surrogatepass"), digest_size=16).hexdigest()

    @property
    def origin(self) -> str:
        """In words, what the answer was made from; empty for a pre-annotation."""
        points = [mark for mark in self.marks if isinstance(mark, PointMark)]
        against = sum(not point.positive for point in points)
        said = [
            _count(len(points) - against, "click"),
            _count(against, "click against"),
            _count(len(self.marks) - len(points), "box"),
            *(f'text "{text.phrase}"' if text.positive else f'not "{text.phrase}"' for text in self.texts),
        ]
        return ", ".join(filter(None, said))


def read_predict(body: Json) -> list[TaskRequest | RequestError]:
    """The tasks of a ``/predict`` body, in order; a task that cannot be read is the error that says why.

    A context with regions is interactive; ``null``, ``{}`` and an empty ``result`` ask for a pre-annotation.

    Raises:
        RequestError: the body has no list of tasks.
    """
    tasks = body.get("tasks") if isinstance(body, Mapping) else None
    if not isinstance(tasks, list):
        raise RequestError("expected a body with a list under 'tasks'")
    return [_read_or_refuse(body, task) for task in tasks]


def _read_or_refuse(body: Json, task: Any) -> TaskRequest | RequestError:
    try:
        if not isinstance(task, Mapping):
            raise RequestError("expected an object")
        return _read_task(body, task)
    except RequestError as error:
        name = _text(task.get("id")) if isinstance(task, Mapping) else ""
        return type(error)(f"task {name or '?'}: {error}")


def _read_task(body: Json, task: Json) -> TaskRequest:
    xml, data = body.get("label_config"), task.get("data")
    if not isinstance(xml, str) or not isinstance(data, Mapping):
        raise RequestError("expected a text under 'label_config' and an object under the task's 'data'")
    config = read_config(xml).with_labels_of(data)
    items = _context_items(body)
    context = read_context(items or [], config, task)
    url, item_index = _image_url(context.image, data, context.page)
    return TaskRequest(
        project=_text(body.get("project")).partition(".")[0],
        task_id=_text(task.get("id")),
        annotator=drafts.annotator(task),
        config=config,
        vocabulary=config.vocabulary,
        image_tag=context.image.name,
        image_url=url,
        item_index=item_index,
        interactive=items is not None,
        armed_label=context.armed_label,
        marks=context.marks,
        texts=context.texts,
    )


def _context_items(body: Json) -> list[Json] | None:
    """The regions of the request's context; None when nothing was drawn or typed, which asks for a pre-annotation."""
    params = body.get("params")
    context = params.get("context") if isinstance(params, Mapping) else None
    result = context.get("result") if isinstance(context, Mapping) else None
    return list(drafts.mappings(result)) if isinstance(result, list) and result else None


def _image_url(tag: ImageTag, data: Json, page: int) -> tuple[str, int | None]:
    """The address of an image and its page; the page is None when the tag shows a single image."""
    found = lookup(tag.source, data)
    if not isinstance(found, list):
        found, index = [found], None
    else:
        index = page
    if (index or 0) >= len(found):
        raise RequestError(f"the image list '{tag.source}' has {len(found)} pages, so there is no page {page}")
    url = found[index or 0]
    if not isinstance(url, str) or not url.strip():
        raise RequestError(f"the task's data has no image address for '{tag.source}'")
    return url.strip(), index


def _text(found: Any) -> str:
    return str(found) if isinstance(found, str | int | float) else ""


def _count(number: int, noun: str) -> str:
    one, _, rest = noun.partition(" ")
    many = f"{one}{'es' if one.endswith('x') else 's'} {rest}".strip()
    return "" if not number else f"{number} {noun if number == 1 else many}"
