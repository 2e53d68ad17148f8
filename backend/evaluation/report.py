"""The report page of an evaluation, and the same numbers as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backend import pages
from backend.evaluation.clicks import MOST_CLICKS, Assumptions, Effort, estimate
from backend.evaluation.compare import Comparison
from backend.evaluation.metrics import THRESHOLDS, Pair, at_threshold, best_threshold, quality

MOST_CURVES = 6
LEVELS = (0.85, 0.90)
_MEANS = ("pq", "sq", "rq", "boundary", "precision", "recall")


def numbers(found: Comparison, assumed: Assumptions) -> dict[str, Any]:
    """Everything that was measured, for another program."""
    return {
        "images": found.images,
        "all": _facts(found.pairs),
        "mean_of_labels": {name: round(mean_of_labels(found, name), 6) for name in _MEANS},
        "labels": {label: _facts(found.of(label)) for label in found.labels()},
        "clicks": {f"{level:.2f}": mean_clicks(found, level) for level in LEVELS},
        "clicked_regions": len(found.clicked),
        "effort": _effort_facts(effort_of(found, assumed)),
        "min_score": min_score_text(found),
        "unread": found.unread,
    }


def mean_of_labels(found: Comparison, name: str) -> float:
    """A figure of Quality as papers give it: its mean over the labels, however rare (Kirillov et al., section 4.1)."""
    values = [float(getattr(quality(found.of(label)), name)) for label in found.labels()]
    return sum(values) / len(values) if values else 0.0


def mean_clicks(found: Comparison, iou: float) -> float | None:
    """The mean clicks to an IoU; None when no clicks were simulated."""
    needed = [clicked.needed(iou) for clicked in found.clicked]
    return sum(needed) / len(needed) if needed else None


def effort_of(found: Comparison, assumed: Assumptions) -> Effort:
    return estimate(found.pairs, mean_clicks(found, LEVELS[0]), assumed)


def min_score_text(found: Comparison) -> str:
    """The best thresholds as ``maskloom prelabel --min-score`` takes them; none for labels that are never right."""
    best = {label: best_threshold(found.of(label)) for label in found.labels()}
    return ", ".join(f"{label}={threshold:g}" for label, (threshold, f1) in best.items() if f1 > 0)


def eval_page(found: Comparison, title: str, assumed: Assumptions) -> str:
    """The page, as HTML."""
    overall = quality(found.pairs)
    subtitle = (
        f"{found.images:,} images, {overall.matches + overall.misses:,} true regions, "
        f"{overall.matches + overall.false_alarms:,} predicted ones"
    )
    return pages.page(
        title,
        subtitle,
        [
            _quality_section(found),
            _threshold_section(found),
            _clicks_section(found),
            _effort_section(found, assumed),
            _worst_section(found),
            pages.section("Images that could not be read", *map(pages.note, found.unread)) if found.unread else "",
        ],
    )


def _quality_section(found: Comparison) -> str:
    rows = [_row(label, found.of(label)) for label in found.labels()] + [_row("all regions", found.pairs)]
    rows.append(["mean of labels", None, *(mean_of_labels(found, name) for name in _MEANS)])
    head = ["label", "true", "PQ", "SQ (mean IoU)", "RQ", "boundary F", "precision", "recall"]
    ious = pages.spread(pair.iou for pair in found.pairs if pair.is_match)
    by_label = {label: quality(found.of(label)).pq for label in found.labels()}
    return pages.section(
        "Quality",
        pages.note("A prediction and a true region of its label are the same thing when their IoU is above 0.5."),
        pages.table(head, rows),
        pages.charts(pages.bars("PQ by label", by_label), pages.histogram("IoU of matches", ious)),
    )


def _row(label: str, pairs: Sequence[Pair]) -> list[str | float | int | None]:
    q = quality(pairs)
    return [label, q.matches + q.misses, q.pq, q.sq, q.rq, q.boundary, q.precision, q.recall]


def _threshold_section(found: Comparison) -> str:
    curves: dict[str, list[tuple[float, float]]] = {}
    rows: list[list[str | float | int | None]] = []
    for label in found.labels():
        points = [at_threshold(found.of(label), threshold) for threshold in THRESHOLDS]
        curves[label] = [(q.recall, q.precision) for q in points if q.matches + q.false_alarms]
        threshold, f1 = best_threshold(found.of(label))
        q = at_threshold(found.of(label), threshold)
        rows.append([label, threshold, f1, q.precision, q.recall])
    return pages.section(
        "Thresholds",
        pages.note("The score with the best F1 for each label, from what people accepted and rejected:"),
        pages.table(["label", "least score", "F1", "precision", "recall"], rows),
        pages.note(f'maskloom prelabel ... --min-score "{min_score_text(found)}"'),
        pages.charts(pages.curves("Precision (up) over recall", dict(list(curves.items())[:MOST_CURVES]))),
    )


def _clicks_section(found: Comparison) -> str:
    if not found.clicked:
        return ""
    lines = {}
    for level in LEVELS:
        needed = [clicked.needed(level) if max(clicked.ious) >= level else None for clicked in found.clicked]
        done = [sum(each is not None and each <= n for each in needed) / len(needed) for n in range(MOST_CLICKS + 1)]
        lines[f"IoU {level:.2f}"] = [(float(n), share) for n, share in enumerate(done)]
    words = ", ".join(f"{mean_clicks(found, level):.2f} to IoU {level:.2f}" for level in LEVELS)
    return pages.section(
        "Simulated clicks",
        pages.note(
            f"Mean clicks: {words}; the largest region of {len(found.clicked)} images each. Every click goes into the middle "
            f"of the largest error, which is kinder than people are; a region that never gets there counts as {MOST_CLICKS}."
        ),
        pages.charts(pages.curves("Share of regions that are there after n clicks", lines, (float(MOST_CLICKS), 1.0))),
    )


def _effort_section(found: Comparison, assumed: Assumptions) -> str:
    effort = effort_of(found, assumed)
    return pages.section(
        "Time saved (an estimate)",
        pages.note(
            f"By hand {effort.by_hand_h:.2f} h, with these predictions {effort.with_predictions_h:.2f} h: "
            f"{effort.factor:.1f} times as fast, if:"
        ),
        "<ul>" + "".join(f"<li>{sentence}</li>" for sentence in assumed.sentences) + "</ul>",
    )


def _worst_section(found: Comparison) -> str:
    pictures = []
    for case in found.worst:
        pictures.append((case.truth, pages.link(case.sample_key, case.link), "the truth"))
        pictures.append((case.predicted, pages.link(case.sample_key, case.link), f"predicted. {case.what}"))
    return pages.section("Worst cases", pages.sheet(pictures)) if pictures else ""


def _facts(pairs: Sequence[Pair]) -> dict[str, float]:
    q = quality(pairs)
    threshold, f1 = best_threshold(pairs)
    names = ("pq", "sq", "rq", "boundary", "precision", "recall", "matches", "misses", "false_alarms")
    return {name: round(float(getattr(q, name)), 6) for name in names} | {"best_threshold": threshold, "best_f1": round(f1, 6)}


def _effort_facts(effort: Effort) -> dict[str, float]:
    return {"by_hand_h": effort.by_hand_h, "with_predictions_h": effort.with_predictions_h, "factor": effort.factor}
