"""How the items of a run become requests: the labelling config, the phrases to look for, and what is made of the masks."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any
from xml.sax.saxutils import quoteattr

from backend.labelstudio.config import read_config
from backend.labelstudio.project_options import read_extra_params
from backend.labelstudio.request.request import TaskRequest, read_predict
from backend.options import ANY_LABEL, Wanted
from backend.stores.ledger import Item
from backend.values.errors import ConfigError, RequestError
from prompts.phrases import LabelPhrases, Vocabulary


class Form(StrEnum):
    """What a sink needs of an answer."""

    PREDICTION = "prediction"
    MASKS = "masks"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that determines the answers but the engine's weights, as plain values that travel between processes.

    ``aliases`` are labels with the phrases that find them; empty, those of the labelling config are used. ``wanted`` is what
    the server would be told by the project's extra parameters.
    """

    label_config: str
    project: str = ""
    aliases: tuple[tuple[str, tuple[str, ...]], ...] = ()
    wanted: Wanted = field(default_factory=Wanted)
    form: Form = Form.PREDICTION

    def request(self, item: Item) -> TaskRequest:
        """The request of an item, read as the server reads one. Raises RequestError when it cannot be."""
        body = {"tasks": [item.task], "project": self.project, "label_config": self.label_config}
        (request,) = read_predict(body)
        if isinstance(request, RequestError):
            raise request
        return replace(request, vocabulary=self._vocabulary()) if self.aliases else request

    @property
    def labels(self) -> tuple[LabelPhrases, ...]:
        """The labels that are looked for, with their phrases."""
        found = self._vocabulary() if self.aliases else read_config(self.label_config).vocabulary
        return found.entries

    def check(self) -> None:
        """Raise ConfigError when there is no image or nothing to look for, or when a label cannot be drawn."""
        config = read_config(self.label_config)
        known = config.vocabulary.labels
        strange = [label for label, _ in self.aliases if label not in known]
        if strange:
            raise ConfigError(f"the labelling config has no label {', '.join(strange)}; it has {', '.join(known) or 'none'}")
        if not self.labels and not any(control.attributes.get("value", "").startswith("$") for control in config.controls):
            raise ConfigError("there is nothing to look for: the labelling config has no labels; name some with --labels")

    def digest(self, *parts: str) -> str:
        """A hash of the recipe and of whatever else makes a run."""
        return hashlib.sha256(json.dumps([asdict(self), parts], sort_keys=True, default=sorted).encode()).hexdigest()

    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(tuple(LabelPhrases.of(label, phrases) for label, phrases in self.aliases))


def read_labels(text: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Labels as typed, ``cat=kitten|tabby, dog``: each with its aliases. Raises RequestError for an alias of nothing."""
    found: dict[str, tuple[str, ...]] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        label, _, aliases = part.partition("=")
        if not label.strip():
            raise RequestError(f"expected labels like 'cat=kitten|tabby, dog', got {part!r}")
        found[label.strip()] = tuple(filter(None, (alias.strip() for alias in aliases.split("|"))))
    return tuple(found.items())


def read_min_scores(text: str) -> dict[str, float]:
    """Least scores by label as typed, ``0.3, cat=0.6``, the first under ANY_LABEL. Raises RequestError for what is none."""
    found: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        label, _, number = part.rpartition("=")
        try:
            score = float(number)
        except ValueError:
            score = -1.0
        if not 0 <= score <= 1:
            raise RequestError(f"expected a score in 0..1 like '0.3' or 'cat=0.6', got {part!r}")
        found[label.strip() or ANY_LABEL] = score
    return found


def read_wanted(extra_params: Any, params: str, min_score: str) -> Wanted:
    """What a project's extra parameters ask for, or those typed in their place (``{"mode": "semantic"}``), with the least
    scores that were typed. Raises RequestError or ConfigError for what cannot be meant.
    """
    if params:
        try:
            extra_params = json.loads(params)
        except ValueError:
            extra_params = None
        if not isinstance(extra_params, dict):
            raise RequestError(
                f'expected a JSON object of extra parameters like \'{{"mode": "semantic"}}\', got {params[:60]!r}'
            )
    wanted = read_extra_params(extra_params)
    return replace(wanted, thresholds={**wanted.thresholds, **read_min_scores(min_score)})


def config_for(labels: tuple[tuple[str, tuple[str, ...]], ...]) -> str:
    """A labelling config that holds masks of these labels as brushes."""
    lines = "".join(_label_tag(label, aliases) for label, aliases in labels)
    image = '<Image name="image" value="$image"/>'
    return f'<View>{image}<BrushLabels name="brush" toName="image">{lines}</BrushLabels></View>'


def _label_tag(label: str, aliases: tuple[str, ...]) -> str:
    phrases = f" predicted_values={quoteattr(','.join(aliases))}" if aliases else ""
    return f"<Label value={quoteattr(label)}{phrases}/>"
