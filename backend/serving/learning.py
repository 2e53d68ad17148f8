"""What the annotations of a project teach about its labels: their regions become places in the engine's eyes, kept by version.

An answer waits for them a few seconds at most; what is not there yet is learnt in the background, for the next answer.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from safetensors import SafetensorError
from safetensors.torch import load, save

from backend.background import Worker
from backend.caches import Codec, DiskCache
from backend.images import ImageSource
from backend.segmenter import Segmenter
from backend.values.errors import MaskloomError, StoreError
from backend.values.session import Example
from prompts.examples import Examples, LabelMemory, ShownImage, together
from prompts.geometry import BoolArray, size_of
from prompts.phrases import LabelPhrases, Vocabulary

log = logging.getLogger(__name__)

MOST_IMAGES = 8
"""Photos of a label that are learnt from, the newest."""
MOST_EXAMPLES = 64
MOST_LABELS = 100
"""Labels of one question that are learnt; the first ones."""
MOST_KEPT_BYTES = 128 << 20
MOST_WAITING = 1_000
PATIENCE_S = 3.0
"""So long an answer waits for examples that nobody has looked at yet."""
CLOSING_S = 1.0
UNREADABLE_S = 300.0
"""So long an image that could not be read is not asked for again."""


class ExampleSource(Protocol):
    """Where the examples of a project are remembered. Every method may raise StoreError."""

    def recall(self, project: str, label: str | None, most: int) -> list[Example]:
        """The newest accepted examples of a label."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ExampleImage:
    """An image with the regions ``(H, W)`` that a project's annotations show on it, each with its label."""

    project: str
    task: str
    url: str
    regions: tuple[tuple[str, BoolArray], ...]
    key: str

    @classmethod
    def of(cls, examples: Sequence[Example]) -> ExampleImage:
        """Examples that lie on one image; those of another size than the first are left out."""
        first, digest = examples[0], hashlib.blake2b(digest_size=16)
        same = [each for each in examples if each.mask.shape == first.mask.shape and each.label is not None]
        regions = tuple((str(each.label), each.mask) for each in same)
        digest.update(repr((first.project, first.task, first.image_url, first.mask.shape)).encode(errors="surrogatepass"))
        for label, mask in sorted(regions, key=lambda region: (region[0], region[1].tobytes())):
            digest.update(label.encode(errors="surrogatepass") + b"\n" + mask.tobytes())
        return cls(first.project, first.task, first.image_url, regions, digest.hexdigest())


@dataclass(frozen=True, eq=False)
class Learnt:
    """What is known about the labels of a vocabulary: the tasks that were learnt from, each with what its image shows. Images
    of ``missing`` tasks could not be looked at, or not yet.
    """

    labels: tuple[LabelPhrases, ...] = ()
    images: tuple[tuple[ExampleImage, ShownImage], ...] = ()
    space: str = ""
    missing: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """A hash of all that an answer may depend on; empty where nothing is known."""
        keys = sorted(image.key for image, _ in self.images)
        return hashlib.blake2b(repr((self.space, keys)).encode(), digest_size=8).hexdigest() if keys else ""

    def besides(self, task: str) -> tuple[LabelMemory, ...]:
        """The memories of labels, without what a task shows itself: nobody learns from the answer."""
        if any(image.task == task for image, _ in self.images):
            return self._memories(shown for image, shown in self.images if image.task != task)
        return self._all

    @cached_property
    def _all(self) -> tuple[LabelMemory, ...]:
        return self._memories(shown for _, shown in self.images)

    def _memories(self, images: Iterable[ShownImage]) -> tuple[LabelMemory, ...]:
        shown = list(images)
        return tuple(memory for entry in self.labels if (memory := _memory_of(entry, shown, self.space)) is not None)


NOTHING_LEARNT = Learnt()


def _memory_of(entry: LabelPhrases, images: Sequence[ShownImage], space: str) -> LabelMemory | None:
    """The memory of one label; None where no image shows it."""
    mine = [image for image in images if len(image.inside.get(entry.label, ()))]
    if not mine:
        return None
    shown = together(Examples(image.inside[entry.label], image.outside) for image in mine)
    return LabelMemory(entry.label, entry.phrases, shown, len(mine), space)


def _shown_to_bytes(shown: ShownImage) -> bytes:
    inside = {f"inside {label}": places for label, places in shown.inside.items()}
    return bytes(save({key: each.cpu().contiguous() for key, each in {**inside, "outside": shown.outside}.items()}))


def _shown_from_bytes(body: bytes) -> ShownImage:
    try:
        tensors = load(body)
        outside = tensors.pop("outside")
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"no places of an example: {error}") from error
    return ShownImage({key.removeprefix("inside "): places for key, places in tensors.items()}, outside)


PLACES = Codec("places of examples", ".places", _shown_to_bytes, _shown_from_bytes)


class Learning:
    """Learns from the examples of projects. Whatever cannot be read or remembered costs its share of what is known, never an
    answer.
    """

    def __init__(self, bank: ExampleSource, images: ImageSource, kept: DiskCache[ShownImage]) -> None:
        self._bank = bank
        self._images = images
        self._kept = kept
        self._known: OrderedDict[str, ShownImage] = OrderedDict()
        self._unreadable: dict[str, float] = {}
        self._under_way: set[str] = set()
        self._changed = threading.Condition()
        self._worker: Worker[tuple[ExampleImage, Segmenter]] = Worker("learning", self._learn, MOST_WAITING)

    def learnt(self, project: str, vocabulary: Vocabulary, segmenter: Segmenter, patience_s: float = PATIENCE_S) -> Learnt:
        """What is known about the labels of a vocabulary after at most so many seconds."""
        if not project or not segmenter.can_learn:
            return NOTHING_LEARNT
        try:
            wanted = self._wanted(project, vocabulary.labels[:MOST_LABELS])
        except StoreError as error:
            log.warning("project %s is answered without what its annotations taught: %s", project, error)
            return NOTHING_LEARNT
        found = self._shown(wanted, segmenter, patience_s)
        images = tuple((image, found[image.key]) for image in wanted if image.key in found)
        missing = tuple(image.task for image in wanted if image.key not in found)
        return Learnt(vocabulary.entries[:MOST_LABELS], images, segmenter.engine.version, missing)

    def wait(self) -> None:
        """Until everything that was begun in the background has ended."""
        self._worker.wait()

    def close(self) -> None:
        """Begin nothing more, and let what is under way end if it takes no longer than a moment."""
        self._worker.close(CLOSING_S)

    def _wanted(self, project: str, labels: Collection[str]) -> list[ExampleImage]:
        """The images to learn from: of every label the newest ones, with everything that they show of all labels."""
        examples = [each for label in labels for each in self._bank.recall(project, label, MOST_EXAMPLES)]
        by_image: dict[tuple[str, str], list[Example]] = defaultdict(list)
        for example in examples:
            by_image[example.task, example.image_url].append(example)
        chosen: dict[tuple[str, str], None] = {}
        for label in labels:
            mine = dict.fromkeys((each.task, each.image_url) for each in examples if each.label == label)
            chosen.update(dict.fromkeys(list(mine)[:MOST_IMAGES]))
        return [ExampleImage.of(by_image[place]) for place in sorted(chosen)]

    def _shown(self, wanted: Sequence[ExampleImage], segmenter: Segmenter, patience_s: float) -> dict[str, ShownImage]:
        """What images show, as far as it is known in time."""
        version, until = segmenter.engine.version, time.monotonic() + patience_s
        found = {image.key: self._recalled(_key(image, version)) for image in wanted}
        missing = [image for image in wanted if found[image.key] is None]
        for image in missing:
            self._begin(image, segmenter)
        with self._changed:
            keys = {_key(image, version) for image in missing}
            self._changed.wait_for(lambda: self._under_way.isdisjoint(keys), max(0.0, until - time.monotonic()))
        found |= {image.key: self._recalled(_key(image, version)) for image in missing}
        return {key: shown for key, shown in found.items() if shown is not None}

    def _recalled(self, key: str) -> ShownImage | None:
        with self._changed:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        shown = self._kept.get(key)
        if shown is not None:
            self._keep(key, shown)
        return shown

    def _keep(self, key: str, shown: ShownImage) -> None:
        with self._changed:
            self._known[key] = shown
            while sum(each.nbytes for each in self._known.values()) > MOST_KEPT_BYTES and len(self._known) > 1:
                self._known.popitem(last=False)

    def _begin(self, image: ExampleImage, segmenter: Segmenter) -> None:
        """Learn an image in the background, unless somebody does, or it could not be read a while ago."""
        key = _key(image, segmenter.engine.version)
        with self._changed:
            if key in self._under_way or time.monotonic() - self._unreadable.get(key, -UNREADABLE_S) < UNREADABLE_S:
                return
            self._under_way.add(key)
        if not self._worker.offer((image, segmenter)):
            self._end(key)

    def _end(self, key: str) -> None:
        with self._changed:
            self._under_way.discard(key)
            self._changed.notify_all()

    def _learn(self, work: tuple[ExampleImage, Segmenter]) -> None:
        image, segmenter = work
        key = _key(image, segmenter.engine.version)
        try:
            shown = self._look(image, segmenter)
            self._keep(key, shown)
            self._kept.put(key, shown)
        except Exception:
            with self._changed:
                self._unreadable[key] = time.monotonic()
            raise
        finally:
            self._end(key)

    def _look(self, image: ExampleImage, segmenter: Segmenter) -> ShownImage:
        """Raises MaskloomError when the image cannot be seen again as it was."""
        found = self._images.load(image.url, image.project, image.task or None)
        if found.size != size_of(image.regions[0][1]):
            raise MaskloomError(f"the image of task {image.task} has another size than when its regions were accepted")
        return segmenter.show(found, image.regions)


def _key(image: ExampleImage, version: str) -> str:
    return f"{version} {image.key}"
