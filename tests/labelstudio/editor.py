"""Label Studio's page as an annotator uses it, driven in a headless Chromium."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image
from playwright.sync_api import Page, Position, Response

from backend.demo.label_studio import Studio

# The editor's own store; it tells when the page is ready and where the image lies.
STORE = "window.dataManager.lsf.lsf"
SELECTED = "window.dataManager?.lsf?.lsf?.annotationStore?.selected"
IMAGE = f"{SELECTED}.names.get('image')"
TASKS = "window.dataManager?.store?.taskStore"
IS_OPEN = (
    f"!window.dataManager?.store?.loadingData && !{TASKS}?.isLoading && {SELECTED}?.names?.get('image')?.stageRef"
    " && !window.dataManager.lsf.lsf.isLoading"
)
"""The editor shows the listed task first, and begins anew when the whole task has come."""
IN_COLUMN_OF_IDS: Position = {"x": 60, "y": 10}
"""Where to click into a row of the list: other columns hold pictures and buttons."""
POINT_LABELS = 0
"""Which block of labels belongs to the smart key points, the first of the recommended config."""


class Editor:
    """One task, open in the page."""

    def __init__(self, page: Page, studio: Studio) -> None:
        self.page = page
        self.studio = studio

    def log_in(self) -> None:
        self.page.goto(f"{self.studio.url}/user/login/")
        self.page.fill("input[name=email]", self.studio.account.email)
        self.page.fill("input[name=password]", self.studio.account.password)
        self.page.click("button[type=submit]")
        self.page.wait_for_load_state()

    def open_task(self, project_id: int, task_id: int) -> None:
        """Open a task from the project's list, as people do, once the list is there.

        The address of a task (``/data?task=1``) loads the list and the task at the same time, and Label Studio 1.23.2 mixes
        them up: the answer to ``/api/tasks?view=`` replaces every task in the page's store by one without predictions and
        annotations (``setList`` in the data manager's ``DataStore.js``), also the one that the answer to ``/api/tasks/1`` has
        just filled. When the list comes last, ``setTask`` in ``AppStore.js`` hands that task to the editor, which begins an
        empty annotation although the prediction is stored: on a busy machine in 5 of 12 tries, and in none from the list.
        """
        self.page.goto(f"{self.studio.url}/projects/{project_id}/data")
        self.page.wait_for_function(f"() => {TASKS}?.list?.some(task => task.id === {task_id}) && !{TASKS}.loading")
        row = self.page.evaluate(f"() => {TASKS}.list.findIndex(task => task.id === {task_id})")
        self.page.locator("[data-testid=table-row-wrapper]").nth(row).click(position=IN_COLUMN_OF_IDS)
        self.page.wait_for_function(f"() => {IS_OPEN}", timeout=60_000)
        self.page.wait_for_timeout(1500)

    def labels_on_image(self) -> list[str]:
        """The labels of the regions that the annotation has, once it has any."""
        self.page.wait_for_function(f"() => {SELECTED}?.regions?.length > 0")
        regions = self.page.evaluate(f"() => {SELECTED}.serializeAnnotation()")
        return [label for region in regions for label in region["value"].get("brushlabels", [])]

    def auto_annotate(self) -> None:
        if not self.page.evaluate(f"() => {STORE}.autoAnnotation"):
            self.page.click("[data-testid=bottombar-auto-annotation-toggle]", force=True)
        self.page.wait_for_function(f"() => {STORE}.autoAnnotation")

    def choose_smart_point(self, label: str) -> None:
        self.page.locator(".lsf-labels").nth(POINT_LABELS).locator(".lsf-label", has_text=label).first.click()
        self.page.keyboard.press("m")  # the key for smart tools
        self.page.wait_for_function(f"() => {IMAGE}.getToolsManager().findSelectedTool()?.fullName === 'KeyPointTool-dynamic'")

    def on_screen(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of the image lies in the page."""
        box = self.page.locator(".konvajs-content").first.bounding_box()
        assert box is not None
        left, top, width, height, columns, rows = self.page.evaluate(
            f"() => {{ const i = {IMAGE}; return [i.alignmentOffset.x, i.alignmentOffset.y, i.stageWidth, i.stageHeight,"
            " i.naturalWidth, i.naturalHeight]; }"
        )
        return box["x"] + left + width * x / columns, box["y"] + top + height * y / rows

    def colour_at(self, x: float, y: float) -> tuple[int, int, int]:
        """What the annotator sees at a pixel of the image."""
        picture = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        at_x, at_y = self.on_screen(x, y)
        red, green, blue = picture.getpixel((round(at_x), round(at_y)))  # type: ignore[misc]
        return red, green, blue

    def click(self, x: float, y: float) -> dict[str, Any]:
        """Click a pixel of the image with a smart tool and wait for the suggestion; what the backend answered."""
        with self.page.expect_response(lambda response: "interactive-annotating" in response.url) as answer:
            self.page.mouse.click(*self.on_screen(x, y))
        body: dict[str, Any] = answer.value.json()
        assert "errors" not in body, body
        self.page.wait_for_function(f"() => {SELECTED}.suggestions.size > 0")
        self.page.wait_for_timeout(700)
        data: dict[str, Any] = body["data"]
        return data

    def accept(self) -> None:
        self.page.click("[data-testid=bottombar-accept-suggestions-button]")
        self.page.wait_for_function(f"() => {SELECTED}.suggestions.size === 0")

    def submit(self) -> None:
        def stores(response: Response) -> bool:
            return "/annotations" in response.url and response.request.method == "POST"

        with self.page.expect_response(stores):
            self.page.click("[data-testid=bottombar-submit-button]")
