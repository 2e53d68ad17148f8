"""One round of prompting, and whose it is."""

from __future__ import annotations

from dataclasses import dataclass

from backend.masks import MaskSet
from prompts.kinds import PromptSet


@dataclass(frozen=True, slots=True)
class Round:
    """What was asked and what was answered."""

    prompts: PromptSet
    masks: MaskSet
