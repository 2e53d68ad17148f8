"""How the results of an annotation become labelled masks on the images of its task, and why some do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backend.export.lines import LeftOut
from backend.labelstudio.config import ImageLabels
from backend.labelstudio.request.request import PreannotationRequest, TaskImage, read_predict
from backend.labelstudio.shapes import runs_of, shape_of, size_of_item
from backend.labelstudio.shapes.base import Json, mappings, read_value, region_id
from backend.labelstudio.verdicts import is_overlooked
from backend.values.errors import RequestError
from backend.values.masks import Region, RunLengths
from prompts.geometry import Size

NO_REGIONS = frozenset({"labels", "textarea", "choices", "taxonomy", "rating", "number", "datetime", "relation", "pairwise"})
"""Results that are no regions, but say something about one or about the task."""


@dataclass(frozen=True, slots=True)
class ImageRegions:
    """One image of a task with the masks on it. ``size`` is None where no region tells it; ``key`` is the task's number, with
    the tag's name and the page where a task has several images.
    """

    key: str
    url: str
    size: Size | None
    regions: tuple[Region, ...]


@dataclass(slots=True)
class ResultReader:
    """Reads the results about the images of one task; what cannot be exported is noted in ``left_out``.

    ``wanted`` are the labels to export (empty: all). Labels that the labelling config lacks are exported under their own name.
    """

    task: int
    images: Sequence[TaskImage]
    wanted: frozenset[str] = frozenset()
    left_out: list[LeftOut] = field(default_factory=list)
    kept: set[str] = field(default_factory=set)

    def read(self, result: Sequence[Json], annotation: int) -> list[ImageRegions]:
        """The masks on each image of the task."""
        items = list(mappings(list(result)))
        found: list[list[Region]] = [[] for _ in self.images]
        for item, labels in _labelled(items):
            try:
                if is_overlooked(item):
                    raise RequestError("it is a suggestion that was damaged on purpose (canaries), and nobody has changed it")
                place = self._place(item)
                regions = self._regions(item, labels, self.images[place].labels, items)
            except RequestError as error:
                self.left_out.append(LeftOut(self.task, annotation, region_id(item), str(error)))
                continue
            found[place] += regions
            self.kept |= {region_id(item)} if regions else set()
        return [self._image(place, regions, annotation) for place, regions in enumerate(found)]

    def _place(self, item: Json) -> int:
        """Which image a region lies on. Raises RequestError when there is none."""
        names = {image.labels.image.name for image in self.images}
        name, page = item.get("to_name"), item.get("item_index")
        for place, image in enumerate(self.images):
            if (name == image.labels.image.name or (len(names) == 1 and name not in names)) and page in (
                None,
                image.item_index,
            ):
                return place
            if len(self.images) == 1 and name == image.labels.image.name and image.item_index is None:
                return place
        raise RequestError(
            f"the task has no image {name!r}{'' if page is None else f', page {page}'} in today's labelling config"
        )

    def _regions(self, item: Json, sent: Sequence[str], labels: ImageLabels, items: Sequence[Json]) -> list[Region]:
        """One region for each of its labels. Raises RequestError when it cannot be exported."""
        shape, kind = shape_of(item), str(item.get("type"))
        if shape is None or not shape.covers:
            raise RequestError(f"a result of the type {kind!r} covers no pixels")
        if (role := labels.role_of(item.get("from_name"), sent[0] if sent else None)) is not None:
            raise RequestError(f"it is a prompt ({role}) and no result")
        names = _names(item, labels, items) or [labels.value_of(label) or label for label in sent]
        if not names:
            raise RequestError("it has no label")
        chosen = [name for name in names if not self.wanted or name in self.wanted]
        runs = _runs(item) if chosen else None
        return [Region(runs, _score(item), name) for name in chosen if runs is not None]

    def _image(self, place: int, regions: Sequence[Region], annotation: int) -> ImageRegions:
        """An image with the regions of the size that most of them were drawn on."""
        image, sizes = self.images[place], Counter(region.runs.size for region in regions)
        size = sizes.most_common(1)[0][0] if sizes else None
        kept = tuple(region for region in regions if region.runs.size == size)
        if len(kept) < len(regions):
            told = f"{len(regions) - len(kept)} regions were drawn while the image had another size than {size}"
            self.left_out.append(LeftOut(self.task, annotation, "", told))
        return ImageRegions(self._key(image), image.url, size, kept)

    def _key(self, image: TaskImage) -> str:
        if len(self.images) == 1:
            return str(self.task)
        page = "" if image.item_index is None else f"-{image.item_index}"
        return f"{self.task}-{image.labels.image.name}{page}"


def images_of(label_config: str, task: int, data: Mapping[str, Any]) -> list[TaskImage]:
    """The images that a task shows. Raises RequestError or ConfigError when there is none with an address."""
    (request,) = read_predict({"label_config": label_config, "tasks": [{"id": task, "data": dict(data)}]})
    if not isinstance(request, PreannotationRequest):
        raise request if isinstance(request, RequestError) else RequestError(f"task {task} cannot be read")
    return [each.image for each in request.images()]


def _score(item: Json) -> float:
    """The score of a predicted region; 1 for what a person drew."""
    found = item.get("score")
    return float(found) if isinstance(found, int | float) and 0 <= found <= 1 else 1.0


def _runs(item: Json) -> RunLengths:
    size = size_of_item(item)
    runs = runs_of(item, size)
    if not runs.area:
        raise RequestError(f"it covers no pixel of its image of {size.width} x {size.height}: it is empty or lies outside")
    return runs


def _labelled(items: Sequence[Json]) -> Iterator[tuple[Json, list[str]]]:
    """Every region, once, with its labels: those of its own and those of its ``labels`` twin, which has the same id."""
    twins: dict[str, list[str]] = {}
    for item in items:
        if item.get("type") == "labels":
            twins.setdefault(region_id(item), []).extend(_own_labels(item))
    seen: set[str] = set()
    for item in items:
        name = region_id(item)
        if str(item.get("type")) in NO_REGIONS or (name and name in seen) or not item.get("type"):
            continue
        seen.add(name)
        yield item, list(dict.fromkeys([*_own_labels(item), *twins.get(name, [])]))


def _own_labels(item: Json) -> list[str]:
    value = read_value(item)
    names = value.get(str(item.get("type"))) or value.get("labels")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _names(item: Json, labels: ImageLabels, items: Sequence[Json]) -> list[str]:
    """What Choices or a Taxonomy say that a region is, where these are the classes."""
    tags = {naming.name: naming for naming in labels.class_namings}
    about = (other for other in items if region_id(other) == region_id(item) and other.get("from_name") in tags)
    said = (tags[str(other.get("from_name"))].named_by(other) for other in about)
    return [name for name in said if name]
