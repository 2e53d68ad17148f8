"""What a project's extra parameters (Settings, Model) ask for; Label Studio sends them as an object or as its text."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from backend.labelstudio.shapes import SHAPES
from backend.options import ANY_LABEL, Mode, PreannotationOptions
from backend.values.errors import ConfigError

MOST_ALTERNATIVES = 5
MOST_PROJECTS = 10_000


class ProjectOptions:
    """The choice of each project, as its last ``/setup`` told; the default for others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_project: OrderedDict[str, PreannotationOptions] = OrderedDict()

    def register(self, project: str, extra_params: Any) -> None:
        """Raises ConfigError when the parameters cannot be meant."""
        wanted = read_extra_params(extra_params)
        with self._lock:
            self._by_project[project] = wanted
            self._by_project.move_to_end(project)
            while len(self._by_project) > MOST_PROJECTS:
                self._by_project.popitem(last=False)

    def of(self, project: str) -> PreannotationOptions:
        with self._lock:
            return self._by_project.get(project, PreannotationOptions())


def read_extra_params(found: Any) -> PreannotationOptions:
    """The choice that extra parameters make; keys that we do not know are left to others.

    Raises:
        ConfigError: a key that we know has a value that it cannot have.
    """
    given = _object(found)
    thresholds = _thresholds(given.get("thresholds"))
    if given.get("threshold") is not None:
        thresholds[ANY_LABEL] = _number(given, "threshold", most=1.0)
    return PreannotationOptions(
        mode=_mode(given.get("mode")),
        thresholds=thresholds,
        max_regions=int(_number(given, "max_regions")) if given.get("max_regions") is not None else None,
        min_area=int(_number(given, "min_area")) if given.get("min_area") is not None else 0,
        containment=_number(given, "containment", most=1.0) if given.get("containment") is not None else None,
        stuff=_names(given.get("stuff")),
        output=_output(given.get("output")),
        alternatives=int(_number(given, "alternatives", most=MOST_ALTERNATIVES))
        if given.get("alternatives") is not None
        else 1,
    )


def _object(found: Any) -> Mapping[str, Any]:
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except ValueError:
            return {}
    return found if isinstance(found, Mapping) else {}


def _mode(found: Any) -> Mode:
    try:
        return Mode(found) if found is not None else Mode.INSTANCE
    except ValueError:
        raise ConfigError(f"extra parameters: 'mode' can be {', '.join(Mode)}, not {found!r}") from None


def _thresholds(found: Any) -> dict[str, float]:
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise ConfigError("extra parameters: expected an object of least scores by label under 'thresholds'")
    return {str(label): _number(found, label, most=1.0) for label in found}


def _number(given: Mapping[str, Any], key: str, most: float = 1e9) -> float:
    found = given.get(key)
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= most:
        raise ConfigError(f"extra parameters: expected a number in 0..{most:g} under {key!r}, got {str(found)[:40]!r}")
    return float(found)


def _output(found: Any) -> str:
    if found is not None and found not in tuple(SHAPES):
        raise ConfigError(f"extra parameters: 'output' can be {', '.join(SHAPES)}, not {found!r}")
    return found or ""


def _names(found: Any) -> frozenset[str]:
    if found is None:
        return frozenset()
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ConfigError("extra parameters: expected a list of labels under 'stuff'")
    return frozenset(found)
