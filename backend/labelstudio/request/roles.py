"""What a region is for when its label or its tag has the attribute ``maskloom``: a prompt of some kind instead of a result."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from backend.values.errors import ConfigError

ATTRIBUTE = "maskloom"


class Role(StrEnum):
    """The values of the attribute.

    On a ``<Label>`` the label is no class of its own: it is not looked for and never answered. On a control tag its labels
    remain classes, and say which class the prompted object has.
    """

    FOR = "for"
    """It marks the object: brush strokes run over it, a polygon or an ellipse surrounds it, a rectangle is its box."""
    AGAINST = "against"
    """What it covers does not belong to the object."""
    REFINE = "refine"
    """It is a mask of the object that is to be made better."""
    REFERENCE = "reference"
    """It shows what to find: "everything like this"."""
    UNLIKE = "unlike"
    """It shows what not to find."""
    IGNORE = "ignore"
    """It means nothing to us, as every region whose label and tag have no role."""


OF_THE_OBJECT = frozenset({Role.FOR, Role.AGAINST, Role.REFINE})
OF_REFERENCES = frozenset({Role.REFERENCE, Role.UNLIKE})


def read_role(attributes: Mapping[str, str]) -> Role | None:
    """The role that a tag's attributes give; None when they give none. Raises ConfigError for one that does not exist."""
    said = attributes.get(ATTRIBUTE, "").strip().lower()
    if not said:
        return None
    try:
        return Role(said)
    except ValueError:
        raise ConfigError(f"the labelling config says {ATTRIBUTE}={said!r}; it can be {', '.join(Role)}") from None
