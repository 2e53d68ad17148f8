"""Label Studio's own decoder of brush masks, run in its own virtual environment."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.labelstudio.prepare import shared_folder

DECODE = """
import json, sys
from label_studio_sdk.converter.brush import decode_rle
region = json.load(sys.stdin)
pixels = decode_rle(region["value"]["rle"]).reshape(region["original_height"], region["original_width"], 4)
sys.stdout.buffer.write(pixels[..., 3].tobytes())
"""


def decode(region: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The mask (H, W) of a brush region as Label Studio itself reads it."""
    python = shared_folder().venv / "bin" / "python"
    done = subprocess.run([python, "-c", DECODE], input=json.dumps(dict(region)).encode(), capture_output=True, check=True)
    alpha = np.frombuffer(done.stdout, np.uint8)
    return alpha.reshape(region["original_height"], region["original_width"]) > 0


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())
