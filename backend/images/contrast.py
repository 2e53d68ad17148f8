"""How measured values (16 bit, float, many bands) become the 8-bit RGB that engines expect.

A band is stretched between its 2nd and 98th percentile, the "cumulative count cut" with which QGIS shows such images
(QGIS user guide, "Raster properties", min/max value settings).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.values.errors import ImageError
from prompts.kinds import Image

Values = NDArray[Any]

PERCENTILES = (2.0, 98.0)
_SAMPLE = 1_000_000
_ROWS = 256


def stretch_bands(values: Values, nodata: float | None = None) -> Image:
    """Bands ``(H, W, C)`` as ``(H, W, C)`` uint8, each between its own percentiles."""
    return np.stack([_stretch(values[..., band], nodata) for band in range(values.shape[2])], axis=2)


def stretch_together(values: Values, nodata: float | None = None) -> Image:
    """Bands ``(H, W, C)`` of one scale, such as 16-bit RGB, between common percentiles, so that colours stay."""
    height, width, bands = values.shape
    return _stretch(values.reshape(height, width * bands), nodata).reshape(values.shape)


def over_white(rgb: Image, alpha: Values) -> Image:
    """``rgb (H, W, 3)`` on white where ``alpha (H, W)``, of an unsigned integer type, is transparent."""
    share = alpha[..., None].astype(np.float32) / np.iinfo(alpha.dtype).max
    return np.rint(rgb * share + 255 * (1 - share)).astype(np.uint8)


def as_rgb(bands: Image) -> Image:
    """The first three of ``(H, W, C)`` bands; a single one (or one with something beside it) as grey."""
    return bands[..., :3] if bands.shape[2] >= 3 else bands[..., [0, 0, 0]]


def _stretch(plane: Values, nodata: float | None) -> NDArray[np.uint8]:
    if not (np.issubdtype(plane.dtype, np.integer) or np.issubdtype(plane.dtype, np.floating)):
        raise ImageError(f"its values are of the type {plane.dtype}, which has no brightness")
    low, high = _limits(plane, nodata)
    stretched = np.empty(plane.shape, np.uint8)
    for top in range(0, len(plane), _ROWS):
        rows = plane[top : top + _ROWS].astype(np.float64)
        known = np.isfinite(rows) & (rows != nodata)
        shares = np.clip((np.where(known, rows, low) - low) / (high - low), 0, 1)
        stretched[top : top + _ROWS] = np.rint(shares * 255)
    return stretched


def _limits(plane: Values, nodata: float | None) -> tuple[float, float]:
    """The values for black and white: percentiles; if they are one value, the extremes; if all is one value, its type's."""
    every = max(1, plane.size // _SAMPLE)
    sample = plane.reshape(-1)[::every].astype(np.float64)
    sample = sample[np.isfinite(sample) & (sample != nodata)]
    if len(sample) == 0:
        return 0.0, 1.0
    low, high = np.percentile(sample, PERCENTILES)
    if low == high:
        low, high = sample.min(), sample.max()
    if low == high:
        low, high = 0.0, float(np.iinfo(plane.dtype).max) if np.issubdtype(plane.dtype, np.integer) else max(1.0, float(high))
    return float(low), float(high)
