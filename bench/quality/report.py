"""The figures as a Markdown table and as one HTML page with pictures of the best, median and worst answers."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from backend import pictures as pages
from backend.values.masks import MaskSet
from bench.quality.measures import reliability
from bench.quality.tasks import Case, Outcome
from prompts.geometry import BoolArray
from prompts.kinds import Image

PICTURES = 8
_HEIGHT = 190
_STYLE = """body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1250px;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}figure{display:inline-block;margin:.3rem}
figcaption{font-size:12px;color:#555}img{display:block;border-radius:3px}"""


def table(outcomes: Sequence[Outcome]) -> str:
    """Every figure beside those of the methods that know nothing, as Markdown."""
    lines = ["| task | measure | asked | maskloom | others |", "|---|---|---|---|---|"]
    for outcome in outcomes:
        for measure, by_method in outcome.rows.items():
            others = ", ".join(f"{method} {value:.3f}" for method, value in by_method.items() if method != "maskloom")
            lines.append(f"| {outcome.task} | {measure} | {outcome.asked} | {by_method['maskloom']:.3f} | {others} |")
    return "\n".join(lines) + "\n"


def page(outcomes: Sequence[Outcome], heading: str, examples: Sequence[tuple[Image, MaskSet]] = ()) -> str:
    """The whole report as one HTML page, what names find on example photos first; its pictures are part of it."""
    parts = [f"<!doctype html><meta charset='utf-8'><title>Quality</title><style>{_STYLE}</style><h1>Quality</h1>"]
    parts.append(f"<p>{html.escape(heading)}</p>{''.join(_example(*each) for each in examples)}{_html_table(outcomes)}")
    parts.append("<p>Pictures: the photo with the truth outlined in green and the answer filled in red.</p>")
    for outcome in outcomes:
        parts.append(f"<h2>{html.escape(outcome.task)}</h2>{_reliability(outcome)}{_groups(outcome)}")
        for title, cases in _selected(outcome.cases):
            parts.append(f"<h3>{title}</h3>" + "".join(_figure(case) for case in cases))
    return "\n".join(parts)


def _selected(cases: Sequence[Case]) -> list[tuple[str, Sequence[Case]]]:
    order = sorted(cases, key=lambda case: -case.iou)
    middle = max(0, len(order) // 2 - PICTURES // 2)
    return [("best", order[:PICTURES]), ("median", order[middle : middle + PICTURES]), ("worst", order[-PICTURES:])]


def _figure(case: Case) -> str:
    image = _shrunk(case.image)
    _fill(image, case.answer)
    truth = _small(case.truth, image.shape[1])
    image[truth & (cv2.erode(truth.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0)] = (40, 230, 60)
    return _captioned(image, f"{case.asked}: IoU {case.iou:.2f}")


def _example(photo: Image, found: MaskSet) -> str:
    image = _shrunk(photo)
    for mask in found.masks:
        _fill(image, np.asarray(mask))
    told = [f"{label} {score:.2f}" for label, score in zip(found.labels, found.scores.tolist(), strict=True)]
    return _captioned(image, ", ".join(told) or "nothing")


def _shrunk(image: Image) -> NDArray[np.float32]:
    width = max(1, round(image.shape[1] * _HEIGHT / image.shape[0]))
    return cv2.resize(image, (width, _HEIGHT), interpolation=cv2.INTER_AREA).astype(np.float32)


def _fill(image: NDArray[np.float32], mask: BoolArray) -> None:
    answer = _small(mask, image.shape[1])
    image[answer] = 0.55 * image[answer] + 0.45 * np.array([230, 40, 40], np.float32)


def _captioned(image: NDArray[np.float32], caption: str) -> str:
    picture = f"<img height='{_HEIGHT}' src='{_picture(image)}'>"
    return f"<figure>{picture}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _picture(image: NDArray[np.float32]) -> str:
    _, encoded = cv2.imencode(".jpg", image[:, :, ::-1].astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 80])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


def _small(mask: BoolArray, width: int) -> BoolArray:
    return np.asarray(cv2.resize(mask.astype(np.uint8), (width, _HEIGHT), interpolation=cv2.INTER_NEAREST) > 0)


def _html_table(outcomes: Sequence[Outcome]) -> str:
    rows = []
    for outcome in outcomes:
        for measure, by_method in outcome.rows.items():
            others = ", ".join(f"{method} {value:.3f}" for method, value in by_method.items() if method != "maskloom")
            cells = (outcome.task, measure, str(outcome.asked), f"<b>{by_method['maskloom']:.3f}</b>", html.escape(others))
            rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "<tr><th>task<th>measure<th>asked<th>Maskloom<th>beside it</tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _reliability(outcome: Outcome) -> str:
    if not outcome.scores:
        return ""
    scores = np.array(outcome.scores)
    bins = reliability(scores[:, 0], scores[:, 1])
    gap = sum(abs(score - reached) * count for score, reached, count in bins) / len(scores)
    rows = [[round(score, 2), round(reached, 2), count] for score, reached, count in bins]
    lines = {"honest": [(0.0, 0.0), (1.0, 1.0)], outcome.task: [(score, reached) for score, reached, _ in bins]}
    return (
        pages.note(f"Reliability of the score, mean gap {gap:.3f}:")
        + pages.charts(pages.curves("IoU reached (up) over the score", lines))
        + pages.table(["score", "IoU reached", "answers"], rows)
    )


def _groups(outcome: Outcome) -> str:
    if not outcome.groups:
        return ""
    ranked = sorted(outcome.groups.items(), key=lambda item: -item[1])
    return "<p>" + ", ".join(f"{html.escape(name)} {value:.2f}" for name, value in ranked) + "</p>"
