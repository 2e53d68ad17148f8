"""The memory page: what a project's annotations have taught, as people see it, and what they say about it."""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from urllib.parse import urlencode

from backend import pictures
from backend.background import Worker
from backend.images.limits import ImageSource
from backend.pictures import Html
from backend.serving.learnt import MOST_IMAGES
from backend.serving.versions import Memories
from backend.stores.balance import Balance, BalanceRow
from backend.stores.curation import Curation, Remembered
from backend.stores.rows import PINNED, REMOVED
from backend.stores.snapshots import Snapshot, Snapshots
from backend.values.errors import MaskloomError, RequestError
from backend.values.session import Example, Verdict
from prompts.geometry import mask_box

log = logging.getLogger(__name__)

AT_ONCE = 48
"""Regions on one page."""
MOST_WEEKS = 12
MARGIN = 0.4
"""How much around a region its picture shows, as a share of the region's longer side."""
MARKS = {"pin": PINNED, "remove": REMOVED, "restore": "", "unpin": ""}
_STYLE = """<style>form { display: inline; } button { font: 12px system-ui, sans-serif; margin: 2px 4px 2px 0; }
.bad { outline: 3px solid #c0392b; } .gone { opacity: .45; } .pin { outline: 3px solid #2a9d50; }</style>"""


@dataclass(frozen=True, slots=True)
class _View:
    """Which regions are shown: those of a label from the ``first`` on; ``doubtful`` ones by annotation and region."""

    project: str
    label: str
    first: int
    doubtful: dict[tuple[str, str], dict[str, str]]

    @property
    def back(self) -> dict[str, str | int]:
        """Where a button leads back to."""
        return {"label": self.label, "first": self.first}


@dataclass(slots=True)
class MemoryPage:
    """Shows the memory of projects and does what its buttons say. Buttons carry a token of this process, so that no other page
    can press them. ``link`` is the address of Label Studio, where it is known.
    """

    curation: Curation
    snapshots: Snapshots
    balance: Balance
    memories: Memories
    images: ImageSource
    link: str = ""
    token: str = field(default_factory=lambda: secrets.token_urlsafe(16), repr=False)
    weighing: Worker[str] = field(init=False)

    def __post_init__(self) -> None:
        self.weighing = Worker("weighing", self._freeze, most=20)

    def overview(self) -> str:
        """All projects, as HTML."""
        rows: list[list[str | float | int | None]] = [
            [Html(f'<a href="{_address("memory", project=each)}">{escape(each)}</a>'), number]
            for each, number in self.curation.projects().items()
        ]
        found = pictures.table(["project", "regions"], rows) if rows else pictures.note("Nothing is remembered yet.")
        return pictures.page("Maskloom memory", "What annotations have taught, by project", [found])

    def project(self, project: str, label: str = "", first: int = 0) -> str:
        """One project with the regions of one label from the ``first`` on, as HTML."""
        counts = self.curation.counts(project)
        label = label if label in counts else next(iter(counts), "")
        subtitle = f"{sum(found.total() for found in counts.values()):,} regions of {len(counts):,} labels"
        versions = self.snapshots.all(project)
        doubtful = _doubtful(versions)
        sections = [
            _STYLE + '<p><a href="memory">all projects</a></p>' + self._switch(project),
            self._acceptance(self.balance.rows(project)),
            pictures.section("Labels", _labels(project, counts)),
            pictures.section("Versions", self._versions(project, versions), *map(_doubt, doubtful.values())),
            *(self._regions(_View(project, label, first, doubtful), counts[label].total()) if label else ()),
        ]
        return pictures.page(f"Memory of project {project}", subtitle, sections)

    def picture(self, project: str, number: int) -> bytes:
        """A region with what is around it, as a JPEG; where its image cannot be seen, its shape alone."""
        if (known := self.curation.thumbnail(number)) is not None:
            self.curation.region(project, number)
            return known
        example = self.curation.region(project, number).example
        mask = example.mask
        rows, columns = _around(example)
        try:
            pixels = self.images.load(example.image_url, project, example.task or None).pixels
            if pixels.shape[:2] != mask.shape:
                raise RequestError(f"the image of task {example.task} has another size than when the region was drawn")
        except MaskloomError as error:
            log.info("region %d is shown without its image: %s", number, error)
            return pictures.shape_picture(mask[rows, columns])
        jpeg = pictures.thumbnail(pixels[rows, columns], [mask[rows, columns]])
        self.curation.keep_thumbnail(number, jpeg)
        return jpeg

    def act(self, project: str, action: str, value: int, token: str) -> None:
        """Do what a button says. Raises RequestError for one that no page of this process has shown."""
        if not secrets.compare_digest(token.encode(), self.token.encode()):
            raise RequestError("this button is of an earlier start of the server, or of another page; load the page again")
        match action:
            case "pin" | "unpin" | "remove" | "restore":
                self.curation.mark(project, value, MARKS[action])
            case "use":
                self.snapshots.choose(project, value or None)
            case "freeze":
                self.weighing.offer(project)
            case "off":
                self.curation.switch_off(project)
            case "on":
                self.curation.switch_on(project)
            case _:
                raise RequestError(f"there is no button {action!r}")

    def _freeze(self, project: str) -> None:
        frozen, is_used = self.memories.freeze(project)
        if frozen is not None:
            log.info("%s of project %s is frozen; bulk runs %s", frozen.name, project, "use it" if is_used else "do not use it")

    def _button(self, text: str, project: str, action: str, value: int = 0, **back: str | int) -> str:
        address = _address("memory/act", project=project, action=action, value=value, token=self.token, **back)
        return f'<form method="post" action="{address}"><button>{escape(text)}</button></form>'

    def _switch(self, project: str) -> str:
        if self.curation.is_off(project):
            text = "This project is not remembered: nothing of it is kept."
            return pictures.note(text) + self._button("Remember from now on", project, "on")
        return self._button("Forget everything and remember nothing", project, "off")

    def _acceptance(self, rows: Sequence[BalanceRow]) -> str:
        weeks = sorted({row.week for row in rows})[-MOST_WEEKS:]
        if not weeks:
            return ""
        totals = {week: [row for row in rows if row.week == week] for week in weeks}
        points = [(float(place), _accepted(found)) for place, found in enumerate(totals.values())]
        line = pictures.curves("Accepted as suggested, by week", {"share": points}, (max(1.0, len(weeks) - 1.0), 1.0))
        head = ["week", "label", "suggested", "accepted", "edited", "deleted", "missed", "IoU", "seconds", "prompts"]
        told = [
            [str(r.week), r.label, r.suggested, r.accepted, r.corrected, r.rejected, r.missed, r.iou, r.seconds, r.prompts]
            for r in rows
            if r.week in totals
        ]
        noticed, overlooked = sum(row.noticed for row in rows), sum(row.overlooked for row in rows)
        seen = f"Of {noticed + overlooked:,} suggestions that were damaged on purpose {noticed:,} were put right."
        canaries = pictures.note(seen) if noticed or overlooked else ""
        return pictures.section("Acceptance", pictures.charts(line), canaries, pictures.table(head, told[:100]))

    def _versions(self, project: str, versions: Sequence[Snapshot]) -> str:
        head = ["version", "frozen", "regions", "quality", "before", "state", ""]
        rows = [
            [
                each.name,
                time.strftime("%Y-%m-%d %H:%M", time.localtime(each.made_at)),
                each.examples,
                each.report.get("quality"),
                each.report.get("quality_before"),
                "withdrawn" if each.is_withdrawn else "used by bulk runs" if each.is_for_bulk else "",
                Html("" if each.is_withdrawn or each.is_for_bulk else self._button("use it", project, "use", each.n)),
            ]
            for each in versions
        ]
        none = self._button("bulk runs without memory", project, "use") if any(each.is_for_bulk for each in versions) else ""
        text = (
            "The page always uses the newest memory, bulk runs a frozen version. A new one is weighed on the images that were "
            "annotated last and used if it finds what was accepted no worse; that takes a while."
        )
        return pictures.note(text) + self._button("Freeze a version", project, "freeze") + none + pictures.table(head, rows)

    def _regions(self, view: _View, total: int) -> Iterator[str]:
        project, label, first = view.project, view.label, view.first
        shown = self.curation.regions(project, label, first, AT_ONCE)
        shares = _shares([each.example for each in self.curation.regions(project, label, 0, AT_ONCE)])
        figures = "".join(self._figure(view, each, shares) for each in shown)
        starts = [start for start in (first - AT_ONCE, first + AT_ONCE) if 0 <= start < total]
        links = [f'<a href="{_address("memory", project=project, label=label, first=s)}">from {s + 1:,}</a>' for s in starts]
        title = f"{label}: {first + 1:,} to {first + len(shown):,} of {total:,}"
        yield pictures.section(title, f'<div class="sheet">{figures}</div>', f"<p>{' '.join(links)}</p>")

    def _figure(self, view: _View, shown: Remembered, shares: dict[tuple[str, str], float]) -> str:
        name, mark = (shown.example.annotation, shown.example.region), shown.mark
        marks = ["remove", "unpin" if mark == PINNED else "pin"] if mark != REMOVED else ["restore"]
        buttons = "".join(self._button(each, view.project, each, shown.id, **view.back) for each in marks)
        looks = "bad" if name in view.doubtful else "gone" if mark == REMOVED else "pin" if mark == PINNED else ""
        image = _address("memory/picture", project=view.project, number=shown.id)
        caption = ", ".join(_facts(shown, shares.get(name), view.doubtful.get(name)))
        return (
            f'<figure class="{looks}"><img loading="lazy" alt="region {shown.id}" src="{image}">'
            f"<figcaption>{self._task(view.project, shown.example)}<br>{escape(caption)}<br>{buttons}</figcaption></figure>"
        )

    def _task(self, project: str, example: Example) -> str:
        number = project.partition("@")[0].partition(".")[0]
        address = f"{self.link}/projects/{number}/data?task={example.task}" if self.link else ""
        return pictures.link(f"task {example.task}", address)


def _address(path: str, **facts: str | int) -> str:
    return escape(f"{path}?{urlencode(facts)}")


def _facts(shown: Remembered, share: float | None, doubt: dict[str, str] | None) -> Iterator[str]:
    """What is known about a region, in words."""
    example = shown.example
    yield str(example.verdict)
    if share is not None and shown.mark != REMOVED:
        yield f"weight {share:.0%}"
    if example.annotator:
        yield f"by {example.annotator}"
    if shown.mark:
        yield shown.mark
    if doubt is not None:
        yield f"doubtful: looks like {doubt['looks_like'] or 'nothing else that was accepted'}"


def _labels(project: str, counts: dict[str, Counter[str]]) -> str:
    head = ["label", *(str(verdict) for verdict in Verdict), "removed"]
    rows: list[list[str | float | int | None]] = [
        [
            Html(f'<a href="{_address("memory", project=project, label=label)}">{escape(label)}</a>'),
            *(found[str(verdict)] for verdict in Verdict),
            found[REMOVED],
        ]
        for label, found in counts.items()
    ]
    return pictures.table(head, rows) if rows else pictures.note("Nothing is remembered yet.")


def _accepted(rows: Sequence[BalanceRow]) -> float:
    suggested = sum(row.suggested for row in rows)
    return sum(row.accepted for row in rows) / suggested if suggested else 0.0


def _doubtful(versions: Sequence[Snapshot]) -> dict[tuple[str, str], dict[str, str]]:
    """What the gate has doubted in the newest version that it has weighed, by annotation and region."""
    report = next((each.report for each in versions if each.report), {})
    return {(each["annotation"], each["region"]): each for each in report.get("doubtful", ())}


def _doubt(each: dict[str, str]) -> str:
    what = f"looks like {each['looks_like']}" if each["looks_like"] else "looks like nothing else that was accepted"
    return pictures.note(f"Doubtful: region {each['region']} of task {each['task']}, accepted as {each['label']}, {what}.")


def _shares(examples: Sequence[Example]) -> dict[tuple[str, str], float]:
    """Which share each region has of what is learnt of its label: that of the newest images, each image as much as another."""
    used = [each for each in examples if each.verdict is not Verdict.REJECTED]
    images = list(dict.fromkeys((each.task, each.image_url) for each in used))[:MOST_IMAGES]
    on_image = Counter((each.task, each.image_url) for each in used)
    return {
        (each.annotation, each.region): 1 / len(images) / on_image[each.task, each.image_url]
        for each in used
        if (each.task, each.image_url) in images
    }


def _around(example: Example) -> tuple[slice, slice]:
    """The rows and columns around a region."""
    size, box = example.runs.size, mask_box(example.mask) or (0, 0, example.runs.size.width, example.runs.size.height)
    edge = round(MARGIN * max(box[2] - box[0], box[3] - box[1]))
    return (
        slice(max(0, box[1] - edge), min(size.height, box[3] + edge)),
        slice(max(0, box[0] - edge), min(size.width, box[2] + edge)),
    )
