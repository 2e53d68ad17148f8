"""How much of an annotator's time predictions save, by assumptions that are said aloud and can be changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backend.evaluation.metrics import Pair

GOOD_ENOUGH_IOU = 0.85


@dataclass(frozen=True, slots=True)
class Assumptions:
    """Seconds for each thing that a person does. Drawing one mask by hand took COCO's annotators about 80 s (Lin et al.,
    Microsoft COCO, ECCV 2014); the others are guesses to be replaced by one's own.
    """

    draw_s: float = 80.0
    check_s: float = 4.0
    click_s: float = 3.0
    delete_s: float = 3.0

    @property
    def sentences(self) -> list[str]:
        return [
            f"A region drawn by hand takes {self.draw_s:g} s (COCO's annotators: about 80 s).",
            f"A predicted region with an IoU of at least {GOOD_ENOUGH_IOU} is looked at for {self.check_s:g} s and accepted.",
            f"Any other true region takes its clicks, {self.click_s:g} s each, and a look; drawn if none were simulated.",
            f"A predicted region that is not there is deleted in {self.delete_s:g} s.",
        ]


@dataclass(frozen=True, slots=True)
class Effort:
    """The hours by hand and with predictions, for the images that were compared."""

    by_hand_h: float
    with_predictions_h: float

    @property
    def factor(self) -> float:
        """How many times as fast."""
        return self.by_hand_h / self.with_predictions_h if self.with_predictions_h else 1.0


def estimate(pairs: Sequence[Pair], clicks: float | None, assumed: Assumptions) -> Effort:
    """The effort for matched pairs; ``clicks`` are the mean clicks of a region to IoU 0.85, None when not simulated."""
    true = [pair for pair in pairs if pair.true_row is not None]
    accepted = sum(pair.is_match and pair.iou >= GOOD_ENOUGH_IOU for pair in true)
    redo_s = assumed.draw_s if clicks is None else min(assumed.draw_s, clicks * assumed.click_s + assumed.check_s)
    false_alarms = len(pairs) - len(true)
    seconds = accepted * assumed.check_s + (len(true) - accepted) * redo_s + false_alarms * assumed.delete_s
    return Effort(len(true) * assumed.draw_s / 3600, seconds / 3600)
