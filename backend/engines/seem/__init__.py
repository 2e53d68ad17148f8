"""SEEM in plain PyTorch: one decoder that answers text, drawings, references and memory in one joint space."""

from __future__ import annotations

from backend.engines.seem.releases import RELEASES, build

__all__ = ["RELEASES", "build"]
