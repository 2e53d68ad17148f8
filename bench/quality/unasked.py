"""What an engine says that nobody asked for: names that are not there, and things without a name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from bench.quality.asking import Annotator, merged
from bench.quality.cases import Object
from bench.quality.measures import iou
from bench.quality.tasks import Case, Outcome
from prompts.kinds import TextPrompt
from train.data import Photo

LEAST_SHARE = 0.01
FOUND = 0.5


def strangers(annotator: Annotator, asked: Sequence[tuple[Photo, tuple[str, ...]]]) -> Outcome:
    """How many photos are said to show any of five names of which none is there, and how many of the names are claimed."""
    outcome = Outcome("names that are not there", len(asked))
    claimed = []
    for photo, names in asked:
        answer = annotator.ask(photo.image, [TextPrompt(name) for name in names])
        said = sorted({label for label in answer.labels if label})
        claimed.append(len(said))
        if said:
            mask = merged(answer)
            outcome.cases.append(Case(photo.image, np.zeros_like(mask), mask, ", ".join(said), 0.0))
    outcome.rows["photos with a false claim"] = {"maskloom": float(np.mean([count > 0 for count in claimed] or [0]))}
    outcome.rows["false presence of a name"] = {"maskloom": sum(claimed) / max(sum(len(names) for _, names in asked), 1)}
    return outcome


def everything(annotator: Annotator, objects: Sequence[Object]) -> Outcome:
    """The share of objects above 1 % of the photo that are among what is found without a word, at an IoU of one half."""
    large = [each for each in objects if each.mask.mean() >= LEAST_SHARE]
    outcome = Outcome("everything", len(large))
    by_photo: dict[str, list[Object]] = defaultdict(list)
    for each in large:
        by_photo[str(each.photo.row.image)].append(each)
    best: list[float] = []
    for shown in by_photo.values():
        answer = annotator.ask_for_everything(shown[0].photo.image)
        for each in shown:
            reached = [(iou(mask, each.mask, each.void), k) for k, mask in enumerate(answer.masks)]
            value, k = max(reached, default=(0.0, -1))
            best.append(value)
            found = answer.masks[k] if k >= 0 else np.zeros_like(each.mask)
            outcome.cases.append(Case(each.photo.image, each.mask, np.asarray(found, np.bool_), "everything", value))
    outcome.rows["recall at IoU 0.5"] = {"maskloom": float(np.mean([value >= FOUND for value in best] or [0]))}
    outcome.rows["mean best IoU"] = {"maskloom": float(np.mean(best or [0]))}
    return outcome
