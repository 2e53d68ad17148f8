"""What is learnt of a project's labels, as values: images with the regions that annotations show on them, what they show to an
engine, how that is written to a file, and the memories that come of it.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from backend.caches import Codec
from backend.values.masks import RunLengths
from backend.values.session import Example, Verdict
from prompts.examples import ShownImage
from prompts.geometry import Size
from prompts.memory import Doubt, LabelMemory, diverse, doubts, learn
from prompts.phrases import LabelPhrases

log = logging.getLogger(__name__)

MOST_CANDIDATES, MOST_IMAGES = 16, 8
"""Images of a label that are looked at, the newest, and those of them that are learnt from, the most different."""
MOST_EXAMPLES = 64
MOST_BESIDES = 8
"""Tasks without which memories are kept."""
MOST_LABELS = 100
"""Labels of one question that are learnt; the first ones."""

Runs = tuple[tuple[str, RunLengths], ...]


class ExampleSource(Protocol):
    """Where the examples of a project are remembered. Every method may raise StoreError."""

    def changes(self, project: str, labels: Collection[str]) -> Mapping[str, int]:
        """For each label a number that is another one when something that may be recalled of it has changed."""
        ...

    def recall(self, project: str, label: str | None, most: int) -> list[Example]:
        """The newest accepted examples of a label."""
        ...

    def rejected(self, project: str, label: str, most: int) -> list[Example]:
        """The newest regions that were suggested under a label and deleted or relabelled."""
        ...


@dataclass(frozen=True, eq=False)
class LabelExamples:
    """The newest examples of a label, accepted and rejected ones, as they were after so many ``changes``."""

    changes: int
    accepted: Sequence[Example]
    rejected: Sequence[Example]

    @cached_property
    def nbytes(self) -> int:
        """Addresses count: they may hold the image itself."""
        return sum(len(each.image_url) + each.runs.edges.nbytes for each in (*self.accepted, *self.rejected))


def examples_of(bank: ExampleSource, project: str, label: str, changes: int) -> LabelExamples:
    """Raises StoreError."""
    return LabelExamples(changes, bank.recall(project, label, MOST_EXAMPLES), bank.rejected(project, label, MOST_EXAMPLES))


def images_of(labels: Iterable[LabelExamples]) -> list[ExampleImage]:
    """Of every label the newest images, with everything that they show and reject of all labels."""
    by_image: dict[tuple[str, str], list[Example]] = defaultdict(list)
    chosen: dict[tuple[str, str], None] = {}
    for label in labels:
        for side in (label.accepted, label.rejected):
            places = dict.fromkeys((each.task, each.image_url) for each in side)
            chosen.update(dict.fromkeys(list(places)[:MOST_CANDIDATES]))
            for each in side:
                by_image[each.task, each.image_url].append(each)
    return [ExampleImage.of(by_image[place]) for place in chosen]


@dataclass(frozen=True, slots=True, eq=False)
class ExampleImage:
    """An image with the regions that a project's annotations show or reject on it, each with its label."""

    project: str
    task: str
    url: str
    size: Size
    regions: Runs
    refused: Runs
    key: str

    @property
    def nbytes(self) -> int:
        return len(self.url) + sum(runs.edges.nbytes for _, runs in (*self.regions, *self.refused))

    @classmethod
    def of(cls, examples: Sequence[Example]) -> ExampleImage:
        """Examples that lie on one image; those of another size than the first are left out."""
        first, size = examples[0], examples[0].runs.size
        sides: dict[bool, dict[tuple[str, bytes], RunLengths]] = {False: {}, True: {}}
        for each in examples:
            if each.runs.size == size and each.label is not None:
                sides[each.verdict is Verdict.REJECTED][each.label, each.runs.edges.tobytes()] = each.runs
        regions, refused = (tuple((label, side[label, edges]) for label, edges in sorted(side)) for side in sides.values())
        digest = hashlib.blake2b(digest_size=16)
        said = (first.project, first.task, first.image_url, size, *(sorted(side) for side in sides.values()))
        digest.update(repr(said).encode(errors="surrogatepass"))
        return cls(first.project, first.task, first.image_url, size, regions, refused, digest.hexdigest())


@dataclass(frozen=True, eq=False)
class Learnt:
    """What is known about the labels of a vocabulary: the images that were learnt from, each with what it shows. Images of
    ``missing`` tasks could not be looked at, or not yet. ``least`` is the least score of a suggestion of some labels.
    """

    labels: tuple[LabelPhrases, ...] = ()
    images: tuple[tuple[ExampleImage, ShownImage], ...] = ()
    space: str = ""
    missing: tuple[str, ...] = ()
    least: tuple[tuple[str, float], ...] = ()
    _besides: OrderedDict[str, tuple[LabelMemory, ...]] = field(default_factory=OrderedDict, repr=False)

    @cached_property
    def digest(self) -> str:
        """A hash of all that an answer may depend on; empty where nothing is known."""
        keys = sorted(image.key for image, _ in self.images)
        return hashlib.blake2b(repr((self.space, keys, self.least)).encode(), digest_size=8).hexdigest() if keys else ""

    @property
    def nbytes(self) -> int:
        return sum(image.nbytes + shown.nbytes for image, shown in self.images)

    def besides(self, task: str) -> tuple[LabelMemory, ...]:
        """The memories of labels, without what a task shows itself: nobody learns from the answer."""
        if all(image.task != task for image, _ in self.images):
            return self._all
        found = self._besides.get(task)
        if found is None:
            found = self._memories(shown for image, shown in self.images if image.task != task)
            self._besides[task] = found
            while len(self._besides) > MOST_BESIDES:
                self._besides.popitem(last=False)
        return found

    def prepare(self) -> None:
        """Make the memories of labels that almost every task is answered with."""
        self.besides("")

    def doubts(self) -> list[tuple[ExampleImage, Doubt]]:
        """The examples that look wrong, which nothing is learnt from, with their images."""
        return [(self.images[doubt.image][0], doubt) for doubt in doubts([shown for _, shown in self.images])]

    @cached_property
    def _all(self) -> tuple[LabelMemory, ...]:
        return self._memories(shown for _, shown in self.images)

    def _memories(self, images: Iterable[ShownImage]) -> tuple[LabelMemory, ...]:
        """Of each label from so many images at most, whatever else these show: what is compared with each other grows with the
        square of what is known.
        """
        shown, chosen = list(images), defaultdict[int, list[str]](list)
        for entry in self.labels:
            for k in diverse(entry.label, shown, MOST_IMAGES):
                chosen[k].append(entry.label)
        refusing = [k for k, image in enumerate(shown) if image.refused and k not in chosen]
        used = [shown[k].showing(chosen[k]) for k in (*sorted(chosen), *refusing)]
        known, least = learn(self.labels, used, self.space), dict(self.least)
        return tuple(replace(memory, least=least.get(memory.label, 0.0)) for memory in known)


NOTHING_LEARNT = Learnt()


def _shown_to_bytes(shown: ShownImage) -> bytes:
    named = {f"inside {label}": places for label, places in shown.inside.items()}
    named |= {f"refused {label}": places for label, places in shown.refused.items()}
    named |= {f"meant {label}": meant for label, meant in shown.meant.items()}
    named |= {f"count {label}": torch.tensor([number]) for label, number in shown.counts.items()}
    return bytes(save({key: each.cpu().contiguous() for key, each in {**named, "outside": shown.outside}.items()}))


def _shown_from_bytes(body: bytes) -> ShownImage:
    try:
        tensors = load(body)
        outside = tensors.pop("outside")
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"no places of an example: {error}") from error
    inside, refused, counts, meant = (
        {key.removeprefix(side): places for key, places in tensors.items() if key.startswith(side)}
        for side in ("inside ", "refused ", "count ", "meant ")
    )
    return ShownImage(inside, outside, refused, {label: int(number) for label, number in counts.items()}, meant)


PLACES = Codec("places of examples", ".places", _shown_to_bytes, _shown_from_bytes)
