"""Prompts as maps of a view: clicks as small Gaussians, everything else as the area it covers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backend.engines.embedded import evidence
from backend.engines.embedded.windows import SIDE, Window, look
from prompts.geometry import BoolArray, Size
from prompts.kinds import MaskPrompt, PolygonPrompt, PromptSet, ScribblePrompt

Map = NDArray[np.float32]
_CLICK = 1.5
"""Standard deviation of a click in pixels of a prompt map."""


def click_map(points: NDArray[np.float64]) -> Map:
    """Clicks ``(N, 2)`` in view pixels as one map ``(48, 48)``."""
    places = np.arange(evidence.MAP_SIDE) + 0.5
    scaled = points.reshape(-1, 2) * (evidence.MAP_SIDE / SIDE)
    across = np.exp(-((places - scaled[:, :1]) ** 2) / (2 * _CLICK**2))
    down = np.exp(-((places - scaled[:, 1:]) ** 2) / (2 * _CLICK**2))
    return np.asarray((down[:, :, None] * across[:, None, :]).max(axis=0, initial=0), np.float32)


def box_map(xyxy: NDArray[np.float64]) -> Map:
    """A box in view pixels as the share of every cell ``(48, 48)`` that it covers."""
    cell = SIDE / evidence.MAP_SIDE
    starts = np.arange(evidence.MAP_SIDE) * cell
    across = np.clip(np.minimum(starts + cell, xyxy[2]) - np.maximum(starts, xyxy[0]), 0, cell) / cell
    down = np.clip(np.minimum(starts + cell, xyxy[3]) - np.maximum(starts, xyxy[1]), 0, cell) / cell
    return np.asarray(down[:, None] * across[None, :], np.float32)


def area_map(mask: BoolArray, window: Window) -> Map:
    """The part of a mask ``(H, W)`` under a window as a map ``(48, 48)``."""
    return np.asarray(look(mask.astype(np.float32), window, evidence.MAP_SIDE, outside=0), np.float32)


def prompt_maps(prompts: PromptSet, shapes: dict[str, BoolArray], window: Window) -> Map:
    """The drawn prompts of one object as maps ``(6, 48, 48)`` of a window.

    ``shapes`` holds what covers an area, rendered once for all windows; see ``drawn_shapes``.
    """
    maps = np.zeros((evidence.MAPS, evidence.MAP_SIDE, evidence.MAP_SIDE), np.float32)
    for channel, label in ((evidence.POSITIVE, 1), (evidence.NEGATIVE, 0)):
        points = prompts.point_coords[prompts.point_labels == label]
        if len(points):
            maps[channel] = click_map(window.to_view(points))
    for name, channel in (("positive", evidence.POSITIVE), ("negative", evidence.NEGATIVE), ("rough", evidence.ROUGH)):
        if name in shapes:
            maps[channel] = np.maximum(maps[channel], area_map(shapes[name], window))
    for box in prompts.boxes:
        maps[evidence.BOX] = np.maximum(maps[evidence.BOX], box_map(window.to_view(box.reshape(2, 2)).ravel()))
    return maps


def drawn_shapes(prompts: PromptSet, size: Size) -> dict[str, BoolArray]:
    """The areas ``(H, W)`` that strokes of either sign cover, and the rough outline from polygons and masks."""
    shapes: dict[str, BoolArray] = {}
    for stroke in prompts.of(ScribblePrompt):
        name = "positive" if stroke.positive else "negative"
        shapes[name] = shapes[name] | stroke.mask if name in shapes else stroke.mask
    outlines = PromptSet((*prompts.of(PolygonPrompt), *prompts.of(MaskPrompt)))
    if len(outlines):
        shapes["rough"] = outlines.region(size)
    return shapes
