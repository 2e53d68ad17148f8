"""What is asked about an image and what was answered: questions, rounds of prompting about one object, and whose they are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from backend.values.masks import MaskSet, RunLengths
from prompts.geometry import BoolArray
from prompts.kinds import KeyedImage, ObjectMemory, Prompt, PromptError, PromptSet
from prompts.phrases import Vocabulary

if TYPE_CHECKING:  # tensors: who only stores or reads requests does not need them
    from prompts.memory import LabelMemory


@dataclass(frozen=True, slots=True, eq=False)
class ForPrompts:
    """Asks for what at least one prompt says.

    Masks are named with the ``vocabulary``, or all with ``armed_label``, the label that the annotator has selected. ``memory``
    is the last round about the same object, ``learnt`` is what the project's annotations teach about its labels. A click that
    may mean several things is answered with at most ``alternatives`` masks, by engines that can tell. Raises PromptError
    without a prompt.
    """

    image: KeyedImage
    prompts: PromptSet
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    armed_label: str | None = None
    memory: ObjectMemory | None = None
    alternatives: int = 1
    learnt: tuple[LabelMemory, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.prompts):
            raise PromptError("expected at least one prompt, got none")


@dataclass(frozen=True, slots=True, eq=False)
class ForNames:
    """Asks for everything that a vocabulary names, with what the project's annotations teach about its labels; nothing is named
    by an empty one.
    """

    image: KeyedImage
    vocabulary: Vocabulary
    learnt: tuple[LabelMemory, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ForEverything:
    """Asks for everything that can be told apart; the vocabulary names it afterwards."""

    image: KeyedImage
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    learnt: tuple[LabelMemory, ...] = ()


Question = ForPrompts | ForNames | ForEverything


@dataclass(frozen=True, slots=True)
class SessionKey:
    """One object that one annotator works on: nothing is shared between two keys. ``image`` names one of several images that a
    task shows side by side, ``item`` is its page.
    """

    project: str
    task: str
    annotator: str
    image: str
    item: int
    label: str


class Verdict(StrEnum):
    """What a person made of what was suggested for a task."""

    ACCEPTED = "accepted"
    """Submitted as it was suggested."""
    CORRECTED = "corrected"
    """Submitted in another shape or under another label than was suggested."""
    MISSED = "missed"
    """Drawn where suggestions were made and had nothing."""
    DRAWN = "drawn"
    """Drawn where, as far as is known, nothing was suggested."""
    REJECTED = "rejected"
    """Suggested under this label, and deleted or given another one: an example of what the label is not."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A region that somebody accepted, rejected or showed: "find more like this". ``label`` is its class, None when it only
    shows.

    ``project`` (of one Label Studio), ``task``, ``annotation`` and ``region`` say where it came from; the image is known by its
    address. ``engine`` is the version that suggested it, empty for what was drawn; ``made_at`` is when
    its annotation was last submitted, in seconds since 1970; ``iou`` is how much of the suggestion was left.
    """

    project: str
    task: str
    annotation: str
    region: str
    image_url: str
    label: str | None
    runs: RunLengths
    verdict: Verdict = Verdict.DRAWN
    annotator: str = ""
    engine: str = ""
    made_at: float = 0.0
    iou: float | None = None
    is_pinned: bool = False

    @property
    def mask(self) -> BoolArray:
        """The mask ``(H, W)``, decoded."""
        return self.runs.decode()


@dataclass(frozen=True, slots=True, eq=False)
class Submission:
    """An annotation as it stands: what it shows and what it rejects. ``seconds`` is how long it took (``lead_time``), None when
    that is not known; ``noticed`` has the labels of suggestions that were damaged on purpose, and whether that was seen.
    """

    project: str
    task: str
    annotation: str
    examples: tuple[Example, ...] = ()
    annotator: str = ""
    engine: str = ""
    made_at: float = 0.0
    seconds: float | None = None
    noticed: tuple[tuple[str, bool], ...] = ()


@dataclass(frozen=True, slots=True)
class Round:
    """What was asked and what was answered."""

    prompts: PromptSet
    masks: MaskSet


def prompt_digest(prompt: Prompt) -> str:
    """A short name of a prompt's content, equal for equal prompts."""
    digest = hashlib.blake2b(type(prompt).__name__.encode(), digest_size=8)
    for part in fields(prompt):
        value = getattr(prompt, part.name)
        digest.update(np.ascontiguousarray(value).tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return digest.hexdigest()
