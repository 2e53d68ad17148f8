"""Bundles of tiny models for every production engine, laid out as ``maskloom fetch`` lays them out."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

from backend.engines.catalogue import find_engine
from tests.backend.engines import tiny_detectors, tiny_models

DECODERS: dict[str, Callable[[Path], Path]] = {
    "EdgeTAM": tiny_models.write_edgetam,
    "sam2.1": tiny_models.write_sam2_video,
    "sam-hq": tiny_models.write_sam_hq,
    "sam-vit": tiny_models.write_sam,
    "sam3": tiny_models.write_sam3,
}
DINOS: dict[str, Callable[[Path], Path]] = {"dinov2": tiny_models.write_dino, "dinov3": tiny_models.write_dinov3}
GROUNDERS: dict[str, Callable[[Path], Path]] = {
    "omdet": tiny_detectors.write_published_omdet,
    "grounding-dino": tiny_detectors.write_grounding_dino,
    "sam3-litetext": tiny_models.write_sam3_lite_text,
}
FAMILIES = ("edgetam-cpu", "sam2-tiny", "sam-base", "sam-hq-base", "sam3")
"""One engine for each family of decoders."""
LIGHT = ("colour", "embedded")


def by_speed(names: Iterable[str]) -> list[object]:
    """Names of engines as parameters of a test, which is slow with published networks, however tiny."""
    return [name if name in LIGHT else pytest.param(name, marks=pytest.mark.slow) for name in names]


def write_bundle(name: str, folder: Path) -> Path:
    """The bundle of an engine by name."""
    models = find_engine(name).models
    for part in models:
        if part.role == "decoder":
            _writer(part.repository, DECODERS)(folder / "decoder")
    tiny_models.write_clip(folder / "clip")
    for part in models:
        if part.role == "dino":
            _writer(part.repository, DINOS)(folder / "dino")
    return folder


def write_published_bundle(name: str, folder: Path) -> Path:
    """The same with every part that is published, detectors as well; EdgeTAM as its video model."""
    write_bundle(name, folder)
    for part in find_engine(name).models:
        if part.role == "grounder":
            _writer(part.repository, GROUNDERS)(folder / "grounder")
        if "EdgeTAM" in part.repository:
            shutil.rmtree(folder / "decoder")
            tiny_models.write_edgetam_video(folder / "decoder")
    return folder


def _writer(repository: str, writers: Mapping[str, Callable[[Path], Path]]) -> Callable[[Path], Path]:
    return next(write for family, write in writers.items() if family in repository)
