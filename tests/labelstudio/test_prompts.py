"""Every way to prompt, at the real page: each test asserts the masks that Label Studio stores."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import sync_playwright
from pycocotools import mask as coco

from backend.demo.photos import find_examples
from backend.labelstudio.client import LabelStudio, Project
from backend.labelstudio.login import send
from backend.labelstudio.studio import Studio
from prompts.geometry import Size, polygon_mask
from tests.backend.pictures import BLUE, GREEN, RED, Picture, disc, paint, square
from tests.labelstudio.annotator import Annotator, mask_of
from tests.labelstudio.editor import IMAGE, SELECTED
from tests.labelstudio.oracle import iou
from tests.labelstudio.pictures import save
from tests.labelstudio.prepare import CHROMIUMS, find_chromium
from tests.labelstudio.test_page import FLAGS

pytestmark = [pytest.mark.studio, pytest.mark.timeout(1200)]

CONFIGS = Path("docs/how-to/configs")
POINT, BOX, BRUSH, POLYGON = "KeyPointTool-dynamic", "RectangleTool-dynamic", "BrushTool", "PolygonTool"


def table() -> Picture:
    """Two red discs, a blue square and a green one, 320 x 240."""
    return paint(
        {
            "large": (disc(240, 320, 80, 90, 50), RED),
            "small": (disc(240, 320, 180, 190, 30), RED),
            "blue": (square(240, 320, 200, 30, 80), BLUE),
            "green": (square(240, 320, 60, 170, 50), GREEN),
        }
    )


@pytest.fixture(scope="module")
def ann(studio: Studio) -> Iterator[Annotator]:
    """A logged-in annotator whose browser reaches nothing but Label Studio."""
    executable = find_chromium()
    if executable is None:
        pytest.skip(f"none of {', '.join(CHROMIUMS)} is installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        context = browser.new_context(viewport={"width": 1500, "height": 950})
        own = (studio.url, "data:", "blob:")
        context.route("**/*", lambda route: route.continue_() if route.request.url.startswith(own) else route.abort())
        context.set_default_timeout(60_000)
        annotator = Annotator(context.new_page(), studio)
        annotator.log_in()
        yield annotator
        browser.close()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The table, the table mirrored, and the table in a JPEG that is stored on its side (EXIF 6)."""
    folder, image = tmp_path_factory.mktemp("images"), table().image
    on_its_side = Image.fromarray(np.ascontiguousarray(np.rot90(image)))
    exif = Image.Exif()
    exif[0x0112] = 6
    on_its_side.save(folder / "side.jpg", quality=98, subsampling=0, exif=exif)
    mirrored = np.ascontiguousarray(image[:, ::-1])
    return [save(image, folder / "table.png"), save(mirrored, folder / "mirrored.png"), folder / "side.jpg"]


@pytest.fixture(scope="module")
def project(label_studio: LabelStudio, colour_backend: str) -> Project:
    return made(label_studio, colour_backend, "mixed")


def made(label_studio: LabelStudio, backend: str, config: str) -> Project:
    """A project with a config of the gallery."""
    found = label_studio.create_project(f"live {config}", (CONFIGS / f"{config}.xml").read_text("utf-8"))
    assert label_studio.attach_backend(found.id, backend, "Maskloom").state == "CO"
    return found


@pytest.fixture
def task(label_studio: LabelStudio, project: Project, images: list[Path], ann: Annotator) -> int:
    """A new task with the table, open in the page."""
    (number,) = label_studio.upload(project.id, images[:1])
    ann.open(project.id, number)
    return number


def stored(label_studio: LabelStudio, task: int) -> list[tuple[str, NDArray[np.bool_]]]:
    """The label and the mask of every region of the submitted annotation that is a result."""
    (annotation,) = label_studio.annotations(task)
    found = [region for region in annotation["result"] if region["from_name"] in ("mask", "brush")]
    labels = {r["id"]: r["value"]["labels"][0] for r in annotation["result"] if r["type"] == "labels"}
    return [(labels.get(r["id"]) or r["value"]["brushlabels"][0], mask_of(r)) for r in found if "rle" in r["value"]]


def assert_stored(label_studio: LabelStudio, task: int, *expected: tuple[str, NDArray[np.bool_]], least: float = 0.95) -> None:
    """That exactly these labels are stored, each with a mask of at least this IoU with the expected one."""
    found = stored(label_studio, task)
    assert sorted(label for label, _ in found) == sorted(label for label, _ in expected)
    for label, mask in expected:
        assert max(iou(mask, other) for its, other in found if its == label) > least, label


def shape(name: str) -> NDArray[np.bool_]:
    return table().shapes[name]


def test_a_click_and_one_against_then_a_rejected_suggestion_then_a_box_and_a_click_beside_it(
    label_studio: LabelStudio, ann: Annotator, task: int
) -> None:
    ann.choose(".clicks", "cup", POINT)
    ann.point(80, 90)
    ann.choose(".clicks", "cup", POINT)
    both = ann.point(240, 70)
    assert iou(mask_of(both[0]), shape("large") | shape("blue")) > 0.95
    ann.choose(".clicks", "cup", POINT)
    ann.point(250, 80, hold="Alt")
    ann.accept()

    ann.choose(".clicks", "plate", POINT)
    ann.point(180, 190)
    ann.reject()
    assert len(ann.on_page()) == 1

    ann.choose(".boxes", "plate", BOX)
    ann.box(190, 20, 290, 75)
    ann.choose(".clicks", "plate", POINT)
    joined = ann.point(310, 150, hold="Alt")
    assert joined[0]["meta"]["text"] == ["1 click against, 1 box"]
    ann.accept()
    ann.submit()
    upper = shape("blue") & (np.mgrid[:240, :320][0] < 75)
    assert_stored(label_studio, task, ("cup", shape("large")), ("plate", upper), least=0.9)  # the mouse draws no exact box


def test_a_scribble_and_this_then_an_outline_and_this(label_studio: LabelStudio, ann: Annotator, task: int) -> None:
    ann.choose(".hints", "mine", BRUSH)
    ann.drag([(60, 90), (80, 100), (100, 90)])
    ann.until_saved()
    (scribbled,) = ann.say("this, cup")
    assert iou(mask_of(scribbled), shape("large")) > 0.95
    ann.accept()
    ann.choose(".outlines", "plate", POLYGON)
    ann.outline([(55, 165), (115, 165), (115, 225), (55, 225)])
    ann.until_saved()
    (outlined,) = ann.say("this")
    assert outlined["meta"]["text"] == ["1 mark"], "the scribble was done with when its mask was accepted"
    ann.accept()
    ann.submit()
    assert_stored(label_studio, task, ("cup", shape("large")), ("plate", shape("green")))


def test_an_example_finds_its_like_on_the_same_image_and_what_was_accepted_is_found_on_another_task(
    label_studio: LabelStudio, ann: Annotator, colour_backend: str, images: list[Path]
) -> None:
    project = made(label_studio, colour_backend, "mixed")  # its own: what other tests accept as a plate is remembered too
    (task,) = label_studio.upload(project.id, images[:1])
    ann.open(project.id, task)
    ann.choose(".boxes", "like this", BOX)
    alike = ann.box(65, 75, 95, 105)
    assert sorted(int(mask_of(each).sum()) for each in alike) == sorted(int(shape(n).sum()) for n in ("large", "small"))
    ann.reject()
    ann.choose(".clicks", "plate", POINT)
    ann.point(85, 195)
    ann.accept()
    ann.submit()

    (other,) = label_studio.upload(project.id, images[1:2])
    ann.open(project.id, other)
    (found,) = ann.say("like plate")
    assert iou(mask_of(found), shape("green")[:, ::-1]) > 0.95
    ann.accept()
    ann.submit()
    assert_stored(label_studio, other, ("plate", shape("green")[:, ::-1]))


def test_a_photo_that_is_stored_on_its_side_is_segmented_upright(
    label_studio: LabelStudio, ann: Annotator, project: Project, images: list[Path]
) -> None:
    (task,) = label_studio.upload(project.id, images[2:])
    ann.open(project.id, task)
    ann.choose(".clicks", "cup", POINT)
    ann.point(240, 70)
    ann.accept()
    ann.submit()
    assert_stored(label_studio, task, ("cup", shape("blue")))


def test_what_is_exported_is_what_was_accepted(label_studio: LabelStudio, project: Project) -> None:
    """Runs after the others: the masks of the project's submitted tasks, in Label Studio's own exports."""
    rows = exported(label_studio, project, "JSON")
    annotated = {row["id"]: row for row in json.loads(rows) if row["annotations"]}
    assert len(annotated) >= 3, "the tests above submit three tasks of this project"
    with zipfile.ZipFile(io.BytesIO(exported(label_studio, project, "BRUSH_TO_PNG"))) as archive:
        pictures = {name: np.asarray(Image.open(io.BytesIO(archive.read(name)))) > 0 for name in archive.namelist()}
    for number in annotated:
        for label, mask in stored(label_studio, number):
            alike = [picture for name, picture in pictures.items() if f"task-{number}-" in name and f"-{label}-" in name]
            assert any(picture.shape == mask.shape and np.array_equal(picture, mask) for picture in alike), (number, label)


def exported(label_studio: LabelStudio, project: Project, kind: str) -> bytes:
    """What Label Studio's export of the project's submitted tasks holds."""
    path, options = f"/api/projects/{project.id}/export", {"exportType": kind, "download_all_tasks": "false"}
    return send(label_studio._http, "GET", path, params=options).content


def test_the_second_page_of_a_task_is_segmented_and_stored_as_the_second_page(
    label_studio: LabelStudio, colour_backend: str, project: Project, ann: Annotator, images: list[Path]
) -> None:
    uploads = label_studio.upload(project.id, images[:2])
    addresses = [label_studio.task(number).data["image"] for number in uploads]
    pages = made(label_studio, colour_backend, "pages")
    (task,) = label_studio.import_tasks(pages.id, [{"images": addresses}])
    ann.open(pages.id, task)
    ann.page.evaluate(f"() => {SELECTED}.names.get('image').setCurrentImage(1)")
    ann.page.wait_for_function(f"() => {IMAGE}.currentImage === 1")
    ann.page.wait_for_timeout(1000)
    ann.choose("body", "plate", POINT)
    (suggested,) = ann.point(80, 70)
    assert suggested["item_index"] == 1
    ann.accept()
    ann.submit()
    (annotation,) = label_studio.annotations(task)
    assert [region["item_index"] for region in annotation["result"] if region["type"] == "brushlabels"] == [1]
    assert_stored(label_studio, task, ("plate", shape("blue")[:, ::-1]))


def test_one_list_of_labels_for_several_tools(
    label_studio: LabelStudio, colour_backend: str, ann: Annotator, images: list[Path]
) -> None:
    project = made(label_studio, colour_backend, "labels")
    (task,) = label_studio.upload(project.id, images[:1])
    ann.open(project.id, task)
    ann.choose("body", "cup", POINT)
    ann.point(80, 90)
    ann.accept()
    ann.submit()
    assert_stored(label_studio, task, ("cup", shape("large")))


def test_accepted_polygons_are_exported_as_coco(
    label_studio: LabelStudio, colour_backend: str, ann: Annotator, images: list[Path]
) -> None:
    project = made(label_studio, colour_backend, "polygons")
    (task,) = label_studio.upload(project.id, images[:1])
    ann.open(project.id, task)
    ann.choose("body", "plate", BOX)
    ann.box(190, 20, 290, 120)
    ann.accept()
    ann.submit()
    with zipfile.ZipFile(io.BytesIO(exported(label_studio, project, "COCO"))) as archive:
        table_of = json.loads(archive.read("result.json"))
    (annotation,) = table_of["annotations"]
    assert [each["name"] for each in table_of["categories"] if each["id"] == annotation["category_id"]] == ["plate"]
    mask = coco.decode(coco.frPyObjects(annotation["segmentation"], 240, 320)).any(axis=2)
    assert iou(mask, shape("blue")) > 0.95


CUP = [(174, 100), (182, 60), (215, 35), (280, 18), (345, 25), (390, 55), (408, 95), (405, 135), (385, 190), (370, 230)]
CUP += [(330, 262), (280, 285), (240, 280), (225, 305), (200, 300), (200, 250), (215, 230), (185, 185)]
"""The cup of scikit-image's photo of a coffee, 600 x 400, with its handle, outlined by hand."""


@pytest.mark.parametrize("prompt", ["box", "outline"])
def test_the_default_engine_segments_the_cup_of_a_photo(
    label_studio: LabelStudio, default_backend: str, ann: Annotator, prompt: str
) -> None:
    project = made(label_studio, default_backend, "mixed")
    (task,) = label_studio.upload(project.id, find_examples(("coffee.png",)))
    ann.open(project.id, task)
    if prompt == "outline":
        ann.choose(".outlines", "cup", POLYGON)
        ann.outline([(170, 90), (230, 20), (340, 15), (415, 90), (395, 200), (330, 275), (200, 310)])
        ann.until_saved()
        (suggested,) = ann.say("this")
    else:
        ann.choose(".boxes", "cup", BOX)
        (suggested,) = ann.box(150, 8, 420, 312)
    ann.accept()
    ann.submit()
    masks = [mask for label, mask in stored(label_studio, task) if label == "cup"]
    assert any(np.array_equal(mask, mask_of(suggested)) for mask in masks)
    assert iou(mask_of(suggested), polygon_mask(np.array(CUP, np.float64), Size(400, 600))) > 0.6
