"""Where the answers of a run go; every sink can be given the same answer twice and keeps it once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from backend.bulk.recipe import Form
from backend.bulk.values import Answer


class Sink(Protocol):
    """A target; ``name`` tells a person, and the ledger, which: what is written under one name replaces what was there."""

    @property
    def name(self) -> str: ...

    @property
    def form(self) -> Form:
        """What it needs of an answer."""
        ...

    def arrived(self, keys: Sequence[str]) -> set[str]:
        """Of answers that may or may not have been written before the last process ended, those that were."""
        ...

    def remove(self, keys: Sequence[str]) -> None:
        """Take away the earlier answers to items that are done anew."""
        ...

    def write(self, answers: Sequence[Answer]) -> Mapping[str, str]:
        """Write answers so that they last; the reasons for those that the target does not take, by key.

        Raises MaskloomError when the target cannot be written to at all.
        """
        ...

    def finish(self) -> str:
        """Put together what was written; says where it is."""
        ...
