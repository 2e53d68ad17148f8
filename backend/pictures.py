"""What people look at: masks painted on images, thumbnails, and report pages.

A report page is one HTML file that needs nothing else, its charts drawn as SVG.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import cv2
import numpy as np
from PIL import Image as PillowImage

from prompts.geometry import BoolArray, mask_box
from prompts.kinds import Image

PALETTE = ((230, 57, 70), (29, 120, 240), (42, 157, 80), (244, 162, 30), (131, 56, 236), (0, 180, 190), (255, 0, 110))
LONGER_SIDE = 240
"""About so many pixels: images are shrunk by whole numbers, which is several times as quick."""
JPEG_QUALITY = 80


def paint_masks(image: Image, masks: Iterable[BoolArray]) -> Image:
    """An image ``(H, W, 3)`` with each of its masks ``(H, W)`` in a colour of its own, outlined."""
    picture = image.copy()
    for row, mask in enumerate(masks):
        paint_mask(picture, mask, PALETTE[row % len(PALETTE)])
    return picture


def paint_mask(picture: Image, mask: BoolArray, colour: tuple[int, int, int]) -> None:
    """Paint a mask ``(H, W)`` on a picture ``(H, W, 3)``, outlined."""
    picture[mask] = (0.5 * picture[mask] + 0.5 * np.array(colour)).astype(np.uint8)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outlines, -1, colour, max(1, min(picture.shape[:2]) // 300))


def write_name(picture: Image, mask: BoolArray, name: str, colour: tuple[int, int, int]) -> None:
    box = mask_box(mask)
    if box is None:
        return
    scale = max(0.4, min(picture.shape[:2]) / 900)
    (width, height), _ = cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    x = int(np.clip(box[0], 0, max(0, picture.shape[1] - width - 4)))
    y = int(np.clip(box[1], height + 4, picture.shape[0]))
    cv2.rectangle(picture, (x, y - height - 4), (x + width + 4, y + 2), colour, -1)
    cv2.putText(picture, name, (x + 2, y - 2), cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)


def thumbnail(image: Image, masks: Iterable[BoolArray]) -> bytes:
    """A small JPEG of an image ``(H, W, 3)`` with its masks ``(H, W)`` in colour."""
    height, width = image.shape[:2]
    step = max(1, round(max(height, width) / LONGER_SIDE))
    size = max(1, width // step), max(1, height // step)
    image = image[: size[1] * step, : size[0] * step]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    shrunk = [cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0 for mask in masks]
    painted = paint_masks(small, shrunk)
    out = io.BytesIO()
    PillowImage.fromarray(painted).save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()


def shape_picture(mask: BoolArray) -> bytes:
    """A small JPEG of a mask ``(H, W)`` alone, white on grey."""
    grey = np.full((*mask.shape, 3), 128, np.uint8)
    grey[mask] = 255
    return thumbnail(grey, [])


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2430; background: #fafbfc; margin: 0 auto; max-width: 1080px;
       padding: 24px; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 32px 0 8px; } p { margin: 4px 0 12px; }
.quiet { color: #667; } table { border-collapse: collapse; background: #fff; font-size: 14px; }
th, td { text-align: left; padding: 4px 12px; border-bottom: 1px solid #e3e6ec; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(160px, 1fr)); gap: 12px; }
figure { margin: 0; background: #fff; border: 1px solid #e3e6ec; border-radius: 6px; overflow: hidden; }
figure img { display: block; width: 100%; height: 130px; object-fit: contain; background: #eef0f4; }
figcaption { padding: 4px 8px; font-size: 12px; overflow-wrap: anywhere; } a { color: #2257c5; text-decoration: none; }
.charts { display: flex; flex-wrap: wrap; gap: 16px; align-items: flex-start; margin: 12px 0; }
svg { background: #fff; border: 1px solid #e3e6ec; border-radius: 6px; }
svg text { font: 12px system-ui, sans-serif; fill: #445; }
"""
_WIDTH, _HEIGHT, _EDGE = 344, 220, 34
COLOURS = ("#2257c5", "#e07b39", "#2a9d50", "#b23a8f", "#7a5cd6", "#00959e", "#c0392b", "#8a8d00")


def page(title: str, subtitle: str, sections: Iterable[str]) -> str:
    """A whole page from sections of HTML."""
    body = "\n".join(sections)
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    heading = f'<h1>{escape(title)}</h1><p class="quiet">{escape(subtitle)}</p>'
    return f'<!DOCTYPE html><html lang="en"><head>{head}</head><body>{heading}\n{body}\n</body></html>\n'


def section(title: str, *parts: str) -> str:
    """A heading and what is below it."""
    return f"<h2>{escape(title)}</h2>\n" + "\n".join(parts)


def note(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


class Html(str):
    """Text that is HTML already."""


def link(text: str, address: str) -> Html:
    """A link; to the web and to files only."""
    if not address.startswith(("http://", "https://", "file:")):
        return Html(escape(text))
    return Html(f'<a href="{escape(address)}">{escape(text)}</a>')


def table(head: Sequence[str], rows: Iterable[Sequence[str | float | int | None]]) -> str:
    """A table; numbers stand to the right."""
    rows = list(rows)
    numeric = [any(isinstance(row[column], float | int) for row in rows) for column in range(len(head))]
    titles = "".join(f"<th{_number(is_number)}>{escape(name)}</th>" for name, is_number in zip(head, numeric, strict=True))
    top = f"<tr>{titles}</tr>\n" if any(head) else ""
    lines = "".join(
        "<tr>" + "".join(f"<td{_number(n)}>{_cell(cell)}</td>" for cell, n in zip(row, numeric, strict=True)) + "</tr>\n"
        for row in rows
    )
    return f"<table>{top}{lines}</table>"


def sheet(pictures: Iterable[tuple[bytes, Html, str]]) -> str:
    """JPEGs side by side, each with a name that links and a caption."""
    figures = (
        f'<figure><img alt="" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
        f"<figcaption>{name}<br>{escape(caption)}</figcaption></figure>"
        for jpeg, name, caption in pictures
    )
    return f'<div class="sheet">{"".join(figures)}</div>'


def charts(*drawn: str) -> str:
    """Charts side by side."""
    return f'<div class="charts">{"".join(drawn)}</div>'


def bars(title: str, counts: Mapping[str, float]) -> str:
    """Horizontal bars, one for each name."""
    most = max(counts.values(), default=0) or 1
    height = _EDGE + 24 * max(1, len(counts)) + 10
    parts = [_text(12, 22, title)]
    for row, (name, count) in enumerate(counts.items()):
        y, length = _EDGE + 24 * row, 130 * count / most
        parts.append(_text(130, y + 14, name[:18], "end"))
        parts.append(f'<rect x="138" y="{y}" width="{length:.1f}" height="18" rx="2" fill="{COLOURS[row % len(COLOURS)]}"/>')
        parts.append(_text(144 + length, y + 14, f"{count:,}" if isinstance(count, int) else f"{count:.3f}"))
    return _svg(height, parts)


def histogram(title: str, shares: Sequence[float], low: float = 0.0, high: float = 1.0) -> str:
    """How values spread over equal steps from ``low`` to ``high``: one number for each step."""
    most, step = max(shares, default=0) or 1, (_WIDTH - 2 * _EDGE) / max(1, len(shares))
    parts = [_text(12, 22, title), *_axes(low, high, 0, most)]
    for place, share in enumerate(shares):
        height = (_HEIGHT - 2 * _EDGE) * share / most
        parts.append(
            f'<rect x="{_EDGE + place * step + 1:.1f}" y="{_HEIGHT - _EDGE - height:.1f}" width="{step - 2:.1f}" '
            f'height="{height:.1f}" fill="{COLOURS[0]}"/>'
        )
    return _svg(_HEIGHT, parts)


def curves(title: str, lines: Mapping[str, Sequence[tuple[float, float]]], reach: tuple[float, float] = (1.0, 1.0)) -> str:
    """Lines of points ``(x, y)`` from the origin to ``reach``, with their names."""
    parts = [_text(12, 22, title), *_axes(0, reach[0], 0, reach[1])]
    for row, (name, points) in enumerate(lines.items()):
        colour = COLOURS[row % len(COLOURS)]
        path = " ".join(
            f"{_EDGE + (_WIDTH - 2 * _EDGE) * x / reach[0]:.1f},{_HEIGHT - _EDGE - (_HEIGHT - 2 * _EDGE) * y / reach[1]:.1f}"
            for x, y in points
        )
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        place = f'x="{_WIDTH - 8}" y="{_HEIGHT - _EDGE - 10 - 15 * row}" text-anchor="end"'
        parts.append(f'<text {place} style="fill:{colour}">{escape(name)}</text>')
    return _svg(_HEIGHT, parts)


def spread(values: Iterable[float], steps: int = 20) -> list[int]:
    """How many values in 0..1 fall into each of equal steps."""
    counts = [0] * steps
    for value in values:
        counts[min(int(value * steps), steps - 1)] += 1
    return counts


def _axes(left: float, right: float, bottom: float, top: float) -> list[str]:
    base = _HEIGHT - _EDGE
    return [
        f'<path d="M{_EDGE} {_EDGE}V{base}H{_WIDTH - _EDGE}" fill="none" stroke="#99a"/>',
        _text(_EDGE, base + 18, f"{left:g}"),
        _text(_WIDTH - _EDGE, base + 18, f"{right:g}", "end"),
        _text(_EDGE - 4, base, f"{bottom:g}", "end"),
        _text(_EDGE - 4, _EDGE + 10, f"{top:.3g}", "end"),
    ]


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(height: float, parts: Iterable[str]) -> str:
    return f'<svg width="{_WIDTH}" height="{height:.0f}" role="img">{"".join(parts)}</svg>'


def _number(is_number: bool) -> str:
    return ' class="number"' if is_number else ""


def _cell(value: str | float | int | None) -> str:
    match value:
        case None:
            return ""
        case str():
            return value if isinstance(value, Html) else escape(value)
        case int():
            return f"{value:,}"
        case _:
            return f"{value:.3f}"
