"""A film's page as an annotator uses it: frames are shown, boxes are dragged, labels are chosen again."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import FloatRect

from backend.video.keyframes import Box
from tests.backend.video.films import read_number
from tests.labelstudio.editor import IN_COLUMN_OF_IDS, SELECTED, TASKS, Editor

VIDEO = f"{SELECTED}.names.get('video')"
IS_OPEN = f"!{TASKS}?.isLoading && {SELECTED} && {VIDEO}?.length > 1 && document.querySelector('video')?.readyState >= 2"
REGION = f"{SELECTED}.regions.find(region => region.cleanId === name)"


class FilmPage(Editor):
    """One task with a film, open in the page."""

    def open_film(self, project_id: int, task_id: int) -> None:
        """Open a task from the project's list (see Editor.open_task) and wait until its film can be shown."""
        self.page.goto(f"{self.studio.url}/projects/{project_id}/data")
        self.page.wait_for_function(f"() => {TASKS}?.list?.some(task => task.id === {task_id}) && !{TASKS}.loading")
        self.page.locator("[data-testid=table-row-wrapper]").first.click(position=IN_COLUMN_OF_IDS)
        self.page.wait_for_function(f"() => {IS_OPEN}", timeout=60_000)
        self.page.wait_for_timeout(1500)

    def length(self) -> int:
        return int(self.page.evaluate(f"() => {VIDEO}.length"))

    def regions(self) -> dict[str, str]:
        """The ids of the boxes by their labels, once there are any."""
        self.page.wait_for_function(f"() => {SELECTED}.regions.length > 0")
        found = self.page.evaluate(f"() => {SELECTED}.regions.map(region => [region.labels[0], region.cleanId])")
        return dict(found)

    def sequence(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.page.evaluate(f"name => {REGION}.sequence", name)
        return found

    def show(self, number: int) -> None:
        """Go to a frame by Label Studio's number, and wait until the player is there."""
        self.page.evaluate(f"number => {VIDEO}.setFrame(number)", number)
        self.page.wait_for_function("() => !document.querySelector('video').seeking")
        self.page.wait_for_timeout(400)

    def painted_number(self, number: int) -> int:
        """What the picture that the annotator sees says at a frame of Label Studio, however it is turned."""
        self.show(number)
        (left, top), (right, bottom) = self.at_percent(0, 0), self.at_percent(100, 100)
        clip: FloatRect = {"x": left, "y": top, "width": right - left, "height": bottom - top}
        picture = np.asarray(Image.open(io.BytesIO(self.page.screenshot(clip=clip))).convert("RGB"))
        return read_number(picture if picture.shape[1] > picture.shape[0] else np.rot90(picture, -1))

    def drag_box(self, name: str, box: Box) -> None:
        """Select a box on the frame that is shown and drag it, by its middle, to the middle of another one; percent."""
        self.page.evaluate(f"name => {SELECTED}.selectArea({REGION})", name)
        self.page.wait_for_timeout(300)
        start = self.page.evaluate(f"name => {REGION}.getShape({VIDEO}.frame)", name)
        x, y = start["x"] + start["width"] / 2, start["y"] + start["height"] / 2
        self.page.mouse.move(*self.at_percent(x, y))
        self.page.mouse.down()
        self.page.mouse.move(*self.at_percent((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), steps=8)
        self.page.mouse.up()
        self.page.wait_for_timeout(300)

    def at_percent(self, x: float, y: float) -> tuple[float, float]:
        """Where a place of the picture lies in the page."""
        box = self.page.locator(".konvajs-content").first.bounding_box()
        assert box is not None
        width, height, zoom = self.page.evaluate(
            f"() => {{ const r = {VIDEO}.ref.current; return [r.videoDimensions.width, r.videoDimensions.height, r.zoom]; }}"
        )
        left, top = (box["width"] - width * zoom) / 2, (box["height"] - height * zoom) / 2
        return box["x"] + left + x / 100 * width * zoom, box["y"] + top + y / 100 * height * zoom

    def relabel(self, name: str, label: str) -> dict[str, Any]:
        """Give the selected box another label; what the backend answered."""
        with self.page.expect_response(lambda response: "interactive-annotating" in response.url) as answer:
            self.page.locator(".lsf-label", has_text=label).first.click()
        body: dict[str, Any] = answer.value.json()
        assert "errors" not in body, body
        self.page.wait_for_timeout(1500)
        data: dict[str, Any] = body["data"]
        return data
