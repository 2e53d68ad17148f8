"""The frames of a film that annotations of a Label Studio export are about, and their pictures as files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from PIL import Image as Pillow

from backend.values.errors import RequestError
from backend.video.film import Film

Which = Literal["keyframes", "all"]


def annotated_numbers(export: Path, task: str | None, which: Which) -> list[int]:
    """Label Studio's numbers, from 1, of the frames with a region: those that somebody set, or all that one is shown on.

    ``export`` is Label Studio's JSON export or one task of it. Raises RequestError for another file and for no such task.
    """
    regions = list(_video_regions(task_of(export, task)))
    found = {number for value in regions for number in _numbers(value, which)}
    if not found:
        raise RequestError(f"{export} has no region in a video" + (f" for task {task}" if task else ""))
    return sorted(found)


def write_frames(film: Film, numbers: Iterable[int], frame_rate: Fraction, folder: Path) -> list[Path]:
    """The file's frames at Label Studio's ``numbers`` as PNG, named by film and by the file's frame, from 0; each once.

    Raises VideoError for a damaged frame and RequestError when the folder cannot be written.
    """
    frames = sorted({film.timeline.from_studio(number, frame_rate) for number in numbers})
    paths = [folder / f"{film.path.stem}_{frame:06d}.png" for frame in frames]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, picture in zip(paths, _pictures(film, frames), strict=True):
            Pillow.fromarray(picture).save(path)
    except OSError as error:
        raise RequestError(f"cannot write frames to {folder}: {error.strerror}") from error
    return paths


def _pictures(film: Film, frames: list[int]) -> Iterator[Any]:
    """The pictures of rising frames, decoded in one go."""
    wanted = set(frames)
    if frames:
        yield from (frame.image for frame in film.frames(frames[0], frames[-1] + 1) if frame.number in wanted)


def task_of(export: Path, task: str | None) -> Mapping[str, Any]:
    """The one task of that number in a JSON export of Label Studio, or its only one.

    Raises RequestError for another file, no such task, and several.
    """
    try:
        body = json.loads(export.read_text(encoding="utf-8"))
        tasks = [body] if isinstance(body, dict) else list(body)
        chosen = [each for each in map(dict, tasks) if task is None or str(each["id"]) == task]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RequestError(f"{export} is no JSON export of Label Studio: {error}") from error
    if not chosen:
        raise RequestError(f"{export} has no task {task}, only {', '.join(str(each['id']) for each in tasks[:10])}")
    if len(chosen) > 1:
        raise RequestError(f"{export} has {len(chosen)} tasks; say with --task which of them is this film's")
    return chosen[0]


def _video_regions(task: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for annotation in task.get("annotations") or ():
        if not annotation.get("was_cancelled"):
            yield from (region.get("value") or {} for region in annotation.get("result") or ())


def _numbers(value: Mapping[str, Any], which: Which) -> Iterator[int]:
    for span in value.get("ranges") or ():
        yield from (int(span["start"]), int(span["end"])) if which == "keyframes" else range(span["start"], span["end"] + 1)
    sequence = sorted(value.get("sequence") or (), key=lambda keyframe: int(keyframe["frame"]))
    numbers = [int(keyframe["frame"]) for keyframe in sequence]
    yield from numbers
    if which == "all" and numbers:
        ends = [*numbers[1:], int(value.get("framesCount") or numbers[-1])]
        for keyframe, first, last in zip(sequence, numbers, ends, strict=True):
            if keyframe.get("enabled", True):
                yield from range(first, last + 1)
