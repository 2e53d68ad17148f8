"""Tracks in the formats that evaluation and training read: DAVIS, MOTS, YouTube-VIS and COCO, each as documented.

``is_gt`` tells what a person gave from what a machine followed, as BURST does; DAVIS and MOTS have no room for it, and get a
file ``NAME_is_gt.json`` beside them with the frames that a person gave, by id.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from backend.values.errors import RequestError
from backend.video.tracks import FrameMask, Track, Tracks, label_map

MOTS_IDS = 1000
"""A pixel of a MOTS picture is ``class * 1000 + instance`` (Voigtlaender et al. 2019)."""


def write_davis(tracks: Tracks, folder: Path, name: str) -> Path:
    """One indexed PNG of 8 bits for each frame, ``folder/name/00000.png``: 0 is background, else the object's id.

    Raises RequestError for more than 253 objects: 254 and 255 mean void.
    """
    if any(track.object_id > 253 for track in tracks.tracks):
        raise RequestError("DAVIS has room for the ids 1 to 253; write MOTS, YouTube-VIS or COCO instead")
    target = _made(folder / name)
    for frame in range(tracks.length):
        picture = Pillow.fromarray(label_map(tracks.on(frame), tracks.size).astype(np.uint8))
        picture.putpalette(davis_palette())
        picture.save(target / f"{frame:05d}.png")
    _write_given(tracks, folder / f"{name}_is_gt.json", {track.object_id: track.object_id for track in tracks.tracks})
    return target


def write_mots(tracks: Tracks, folder: Path, name: str) -> Path:
    """MOTS as 16-bit PNG, ``folder/instances/name/000000.png``, and as text, ``folder/instances_txt/name.txt``: a line
    ``frame id class height width rle`` for each object on each frame. Classes count from 1; ``classes.json`` names them.

    Raises RequestError for more than 63 classes or 998 objects, for which the pixels have no room.
    """
    classes = _numbered(tracks)
    instances = _instance_ids(tracks, classes)
    if len(classes) > 63 or len(tracks.tracks) > 998:
        raise RequestError("MOTS has room for 63 classes and 998 objects; write YouTube-VIS or COCO instead")
    pictures, texts = _made(folder / "instances" / name), _made(folder / "instances_txt")
    lines = []
    for frame in range(tracks.length):
        masks = {instances[number]: mask for number, mask in tracks.on(frame).items()}
        ids = label_map(masks, tracks.size)
        Pillow.fromarray(ids.astype(np.uint16)).save(pictures / f"{frame:06d}.png")
        for number in sorted(masks):
            shown = FrameMask.of(ids == number, 1)  # MOTS forbids overlaps: what is seen in front
            if shown.area:
                size = f"{tracks.size.height} {tracks.size.width}"
                lines.append(f"{frame} {number} {number // MOTS_IDS} {size} {shown.counts.decode('ascii')}")
    (texts / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
    (folder / "classes.json").write_text(json.dumps(classes, indent=1), encoding="utf-8")
    _write_given(tracks, folder / f"{name}_is_gt.json", instances)
    return folder


def write_youtube_vis(tracks: Tracks, folder: Path, name: str) -> Path:
    """One YouTube-VIS JSON, ``folder/name.json``: for each track a list of segmentations, null where it is absent."""
    classes = _numbered(tracks)
    annotations = [
        {
            "id": track.object_id,
            "video_id": 1,
            "category_id": classes[track.label or "object"],
            "iscrowd": 0,
            "height": tracks.size.height,
            "width": tracks.size.width,
            "length": tracks.length,
            "segmentations": _along(track, tracks.length, _rle),
            "bboxes": _along(track, tracks.length, _coco_box),
            "areas": _along(track, tracks.length, lambda mask: mask.area),
            "scores": _along(track, tracks.length, lambda mask: round(mask.score, 4)),
            "is_gt": _along(track, tracks.length, lambda mask: mask.is_given),
        }
        for track in tracks.tracks
    ]
    files = [f"{name}/{frame:05d}.jpg" for frame in range(tracks.length)]
    size = {"width": tracks.size.width, "height": tracks.size.height}
    video = {"id": 1, **size, "length": tracks.length, "file_names": files}
    return _write_json(_made(folder) / f"{name}.json", {"videos": [video], "annotations": annotations}, classes)


def write_coco(tracks: Tracks, folder: Path, name: str) -> Path:
    """One COCO JSON of all frames, ``folder/name.json``: an image for each frame, an annotation for each object on it, with
    ``track_id``, ``is_gt`` and ``score``.
    """
    classes = _numbered(tracks)
    images = [
        {"id": frame + 1, "file_name": f"{name}/{frame:05d}.jpg", "height": tracks.size.height, "width": tracks.size.width}
        for frame in range(tracks.length)
    ]
    annotations = [
        {
            "image_id": frame + 1,
            "category_id": classes[track.label or "object"],
            "segmentation": _rle(mask),
            "bbox": _coco_box(mask),
            "area": mask.area,
            "iscrowd": 0,
            "track_id": track.object_id,
            "is_gt": mask.is_given,
            "score": round(mask.score, 4),
        }
        for track in tracks.tracks
        for frame, mask in sorted(track.masks.items())
    ]
    numbered = [{"id": number, **one} for number, one in enumerate(annotations, 1)]
    return _write_json(_made(folder) / f"{name}.json", {"images": images, "annotations": numbered}, classes)


FORMATS: Mapping[str, Callable[[Tracks, Path, str], Path]] = {
    "davis": write_davis,
    "mots": write_mots,
    "youtube-vis": write_youtube_vis,
    "coco": write_coco,
}
"""What ``maskloom track --format`` writes, by name."""


def davis_palette() -> list[int]:
    """The 256 colours of PASCAL VOC and DAVIS: the bits of the id, spread over red, green and blue from the highest."""
    colours = np.zeros((256, 3), np.uint8)
    ids = np.arange(256)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((ids >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return [int(value) for value in colours.ravel()]


def _numbered(tracks: Tracks) -> dict[str, int]:
    """Class ids from 1 by name; tracks without a label are objects."""
    return {name: number for number, name in enumerate(sorted({track.label or "object" for track in tracks.tracks}), 1)}


def _instance_ids(tracks: Tracks, classes: Mapping[str, int]) -> dict[int, int]:
    """MOTS ids by object: within each class counted from 1."""
    seen: dict[str, int] = {}
    found = {}
    for track in tracks.tracks:
        label = track.label or "object"
        seen[label] = seen.get(label, 0) + 1
        found[track.object_id] = classes[label] * MOTS_IDS + seen[label]
    return found


def _write_given(tracks: Tracks, path: Path, ids: Mapping[int, int]) -> None:
    """The frames that a person gave, by the id that a track has in the pictures."""
    given = {
        str(ids[track.object_id]): [frame for frame, mask in sorted(track.masks.items()) if mask.is_given]
        for track in tracks.tracks
    }
    path.write_text(json.dumps(given), encoding="utf-8")


def _along(track: Track, length: int, of: Callable[[FrameMask], Any]) -> list[Any]:
    return [of(track.masks[frame]) if frame in track.masks else None for frame in range(length)]


def _rle(mask: FrameMask) -> dict[str, Any]:
    return {"size": [mask.size.height, mask.size.width], "counts": mask.counts.decode("ascii")}


def _coco_box(mask: FrameMask) -> list[int]:
    x0, y0, x1, y1 = mask.box() or (0, 0, 0, 0)
    return [x0, y0, x1 - x0, y1 - y0]


def _write_json(path: Path, body: Mapping[str, Any], classes: Mapping[str, int]) -> Path:
    categories = [{"id": number, "name": name} for name, number in classes.items()]
    path.write_text(json.dumps({"info": {"description": "maskloom"}, **body, "categories": categories}), encoding="utf-8")
    return path


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"cannot write to {folder}: {error.strerror}") from error
    return folder
