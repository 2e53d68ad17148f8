"""An annotator who uses every tool: scribbles, outlines, boxes, the text box, and what is stored of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Response

from backend.labelstudio.shapes import painted as rle
from prompts.geometry import Size
from tests.labelstudio.editor import IMAGE, SELECTED, Editor

TOOL = f"{IMAGE}.getToolsManager().findSelectedTool()?.fullName"
BUTTONS = {"KeyPointTool-dynamic": "key-point-tool", "RectangleTool-dynamic": "rectangle-tool"}
"""The buttons of smart tools, which unfold when the pointer is over the one that is shown."""
DELETE_TEXT = "[data-testid=textarea-region-delete], .lsf-text-area [aria-label='Delete Region']"
BUTTON = 28
"""How wide the circles are that accept or reject one suggestion."""
Points = Sequence[tuple[float, float]]


class Annotator(Editor):
    """One task, open in the page, with a config that keeps its labels in blocks of their own."""

    def open(self, project_id: int, task_id: int) -> None:
        self.open_task(project_id, task_id)
        self.auto_annotate()

    def choose(self, block: str, label: str, tool: str) -> None:
        """Select a label in a block of the page, and the tool (``BrushTool``, ``KeyPointTool-dynamic``) that goes with it."""
        self.page.keyboard.press("Escape")
        exactly = re.compile(rf"^\s*{re.escape(label)}\s*\w?\s*$")
        self.page.locator(f"{block} .lsf-label").filter(has_text=exactly).first.click()
        if self._tool() != tool:
            self.page.keyboard.press("m")  # the key for smart tools chooses the first of them
            self.page.wait_for_timeout(200)
        if self._tool() != tool:
            self.page.locator("button.lsf-tool_smart:visible").first.hover()
            self.page.locator(f"button.lsf-tool_smart[aria-label='{BUTTONS[tool]}']:visible").last.click()
        self.page.wait_for_function(f"() => {TOOL} === '{tool}'")

    def _tool(self) -> str | None:
        found: str | None = self.page.evaluate(f"() => {TOOL}")
        return found

    def drag(self, points: Points) -> None:
        """Press at the first of some pixels of the image, move over the others, let go."""
        (x, y), *rest = (self.on_screen(*point) for point in points)
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        for x, y in rest:
            self.page.mouse.move(x, y, steps=5)
        self.page.mouse.up()

    def outline(self, points: Points) -> None:
        """Draw a polygon and close it at its first point."""
        for point in [*points, points[0]]:
            self.page.mouse.click(*self.on_screen(*point))
            self.page.wait_for_timeout(150)

    def until_saved(self, act: Callable[[], object] = lambda: None) -> None:
        """Do something and wait until the page has stored what is drawn as a draft: within some seconds, or at once."""

        def saves(response: Response) -> bool:
            return "/drafts" in response.url and response.request.method in ("POST", "PATCH")

        with self.page.expect_response(saves):
            act()
        self.page.wait_for_timeout(300)

    def box(self, x0: float, y0: float, x1: float, y1: float) -> list[dict[str, Any]]:
        """Draw a box with a smart tool; the suggestion."""
        return self._suggested(lambda: self.drag([(x0, y0), (x1, y1)]))

    def point(self, x: float, y: float, *, hold: str | None = None) -> list[dict[str, Any]]:
        """Click with a smart tool, with a key held (Alt for a click against); the suggestion."""

        def act() -> None:
            if hold:
                self.page.keyboard.down(hold)
            self.page.mouse.click(*self.on_screen(x, y))
            if hold:
                self.page.keyboard.up(hold)

        return self._suggested(act)

    def say(self, line: str) -> list[dict[str, Any]]:
        """Type into the text prompt, in place of what it said, and press Enter; the suggestion."""
        self.page.keyboard.press("Escape")
        for each in self.page.locator(DELETE_TEXT).all():
            each.click()
        field = self.page.locator("[data-testid=textarea-input]").first

        def act() -> None:
            field.click()
            field.fill(line)
            field.press("Enter")

        return self._suggested(act)

    def _suggested(self, act: Any) -> list[dict[str, Any]]:
        with self.page.expect_response(lambda response: "interactive-annotating" in response.url) as answer:
            act()
        body = answer.value.json()
        assert "errors" not in body, body
        self.page.wait_for_timeout(700)
        return list(body["data"]["result"])

    def accept_one(self, place: int) -> None:
        """Press the tick of one suggestion, by its place among them: below each are two circles, a cross and a tick."""
        canvas = self.page.locator(".konvajs-content").first.bounding_box()
        assert canvas is not None
        circles = self.page.evaluate(f"() => {IMAGE}.stageRef.find('Circle').map(circle => circle.getClientRect())")
        tick = [circle for circle in circles if circle["width"] == BUTTON][2 * place + 1]
        self.page.mouse.click(canvas["x"] + tick["x"] + BUTTON / 2, canvas["y"] + tick["y"] + BUTTON / 2)
        self.page.wait_for_function(f"() => {SELECTED}.serializeAnnotation().some(region => region.type !== 'keypointlabels')")

    def reject(self) -> None:
        self.page.click("[data-testid=bottombar-reject-suggestions-button]")
        self.page.wait_for_function(f"() => {SELECTED}.suggestions.size === 0")

    def undo(self) -> None:
        """Take back the last thing drawn, with the keys for it."""
        before = len(self.on_page())
        self.page.keyboard.press("Escape")
        self.page.keyboard.press("Control+z")
        self.page.wait_for_function(f"() => {SELECTED}.serializeAnnotation().length < {before}")

    def delete_region(self, row: int) -> None:
        """Choose a row of the page's list of regions and press the key that deletes."""
        self.page.locator(".lsf-outliner-item__title").nth(row).click()
        self.page.keyboard.press("Backspace")
        self.page.wait_for_timeout(300)

    def on_page(self) -> list[dict[str, Any]]:
        """All regions of the annotation as the page would store them."""
        return list(self.page.evaluate(f"() => {SELECTED}.serializeAnnotation()"))


def mask_of(region: dict[str, Any]) -> NDArray[np.bool_]:
    return rle.decode(region["value"]["rle"], Size(region["original_height"], region["original_width"]))
