"""Label Studio's words outside, Maskloom's values inside; nothing else knows Label Studio's JSON."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """``rle``: brush masks under the name that scripts of earlier releases import."""
    if name == "rle":
        return import_module("backend.labelstudio.shapes.painted")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
