"""An engine from a bundle: a folder with one model in each of ``decoder``, ``clip`` and, where wanted, ``dino`` and
``grounder``.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import torch

from backend.engines.base import Engine
from backend.engines.phrase_cache import VocabularyStore
from backend.engines.pretrained import resolve
from backend.engines.registry import fingerprint
from backend.engines.sam import dino
from backend.engines.sam import grounders_table as grounders
from backend.engines.sam.concepts import ConceptFinder, ExemplarFinder
from backend.engines.sam.everything import ON_A_CPU, EverythingOptions
from backend.engines.sam.families import load_network
from backend.engines.sam.foundation import FoundationDecoder, FoundationParts
from backend.engines.sam.joint import FoundationSpace
from backend.engines.sam.sam3 import Sam3Network
from backend.engines.sam.text_grounding import BoxFinder, Decoding, Finder, LikeFinder, MapFinder, MapLikeFinder
from backend.values.errors import SetupError
from backend.values.placement import Placement
from prompts.encoders.openclip import OpenClip

DENSE_SIDE = {"cpu": 336, "cuda": 560}
"""The longer side at which CLIP reads patches."""


def build(folder: Path, name: str, placement: Placement) -> Engine:
    """The engine in a bundle. Raises SetupError that says which part is missing or broken."""
    device, _ = resolve(placement)
    decoding = Decoding(load_network(_part(folder, "decoder"), placement))
    clip = load_clip(_part(folder, "clip"), device, placement.vocabulary)
    space = FoundationSpace(name, clip)
    parts = FoundationParts(
        decoding=decoding,
        space=space,
        clip=clip,
        dino=dino.load(folder / "dino", placement) if (folder / "dino").is_dir() else None,
        finder=_finder(folder, decoding, space, placement),
        like_finder=_like_finder(decoding),
        everything=_everything(folder / "everything.json", ON_A_CPU if device.type == "cpu" else EverythingOptions()),
    )
    return Engine(name, name, space, FoundationDecoder(parts))


def load_clip(folder: Path, device: torch.device, vocabulary: Path | None = None) -> OpenClip:
    """The CLIP in a folder, which keeps the vectors of phrases in another. Raises SetupError when it cannot be used."""
    store = None if vocabulary is None else VocabularyStore(vocabulary, f"clip-{fingerprint(folder)}")
    try:
        return OpenClip.load(folder, device, DENSE_SIDE.get(device.type, DENSE_SIDE["cpu"]), store)
    except ImportError as error:
        raise SetupError(f"this engine needs open_clip: pip install 'maskloom[engines]' ({error})") from error
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise SetupError(f"the CLIP in {folder} cannot be used: {error}") from error


def _everything(path: Path, usual: EverythingOptions) -> EverythingOptions:
    """The options of everything mode in a bundle, under SAM's names; those that it does not name are the usual ones."""
    if not path.is_file():
        return usual
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        options = replace(usual, **given)
        if not all(isinstance(value, int | float) and value >= 0 for value in given.values()):
            raise ValueError("expected numbers from 0")
    except (ValueError, TypeError) as error:
        names = ", ".join(field.name for field in fields(EverythingOptions))
        raise SetupError(f"{path} cannot be used: {error}; it is an object with some of {names}") from error
    return options


def _finder(folder: Path, decoding: Decoding, space: FoundationSpace, placement: Placement) -> Finder:
    if isinstance(decoding.network, Sam3Network):
        return ConceptFinder(decoding.network)
    on_the_map = MapFinder(space, decoding)
    if not (folder / "grounder").is_dir():
        return on_the_map
    return BoxFinder(grounders.load(folder / "grounder", placement), decoding, on_the_map)


def _like_finder(decoding: Decoding) -> LikeFinder:
    on_the_map = MapLikeFinder(decoding)
    return ExemplarFinder(decoding.network, on_the_map) if isinstance(decoding.network, Sam3Network) else on_the_map


def _part(folder: Path, role: str) -> Path:
    path = folder / role
    if not path.is_dir():
        raise SetupError(f"the bundle {folder} lacks its part {role!r}: expected a folder {path}")
    return path
