"""A Label Studio project with photos and their masks: its labelling config, its photos on disk, and the steps that fill it.

What is missing is made, what is there is kept, and how long work takes is shown: a spinner or a bar on a terminal, one line
with the seconds anywhere.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image, ImageOps
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from backend.images.decode import FORMATS
from backend.labelstudio.api import LabelStudio, Project, Task
from backend.values.errors import ImageError, SetupError, missing_extra

COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#f032e6", "#9a6324", "#808000", "#000075")

_CONFIG = """<View>
  <Style>
    .prompt {{ max-width: 640px; }}
    .lsf-main-content.lsf-requesting .prompt::before {{ content: "segmenting ..."; color: #617ADA; }}
    .work {{ display: flex; gap: 16px; }}
    .photo {{ flex: 1 1 auto; min-width: 0; }}
    .labels {{ flex: 0 0 150px; }}
    .labels h6 {{ margin: 0 0 4px 0; }}
  </Style>
  <View className="prompt">
    <TextArea name="prompt" toName="image" rows="1" maxSubmissions="1" editable="true"
              placeholder="What to segment, then Enter: cup, not the saucer"/>
  </View>
  <View className="work">
    <View className="photo">
      <Image name="image" value="$image" zoom="true" zoomControl="true"/>
    </View>
    <View className="labels">
      <Header value="Click, Alt-click" size="6"/>
      <KeyPointLabels name="point" toName="image" smart="true" smartOnly="true">
{labels}
      </KeyPointLabels>
      <Header value="Box" size="6"/>
      <RectangleLabels name="box" toName="image" smart="true" smartOnly="true">
{labels}
      </RectangleLabels>
      <Header value="Brush" size="6"/>
      <BrushLabels name="brush" toName="image" smart="false">
{labels}
      </BrushLabels>
      <Header value="Polygon" size="6"/>
      <PolygonLabels name="polygon" toName="image" smart="false">
{labels}
      </PolygonLabels>
    </View>
  </View>
</View>
"""


def recommended_config(labels: Sequence[str]) -> str:
    """Label Studio's XML for a project that segments images into these labels.

    Brushes hold the masks, smart key points and smart rectangles prompt with a click or a box, the text box prompts with words,
    and polygons are drawn by hand.
    """
    lines = (
        f'    <Label value={quoteattr(label)} background="{COLOURS[i % len(COLOURS)]}"/>' for i, label in enumerate(labels)
    )
    return _CONFIG.format(labels="\n".join(lines))


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of one run, one after the other."""

    console: Console

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[str], None]]:
        """Work of unknown length; what is yielded takes news about it."""
        started = time.monotonic()
        with self.console.status(f"{escape(name)} ...") as status:
            yield lambda news: status.update(f"{escape(name)}: {escape(news[:100])}")
        self._done(name, started)

    @contextmanager
    def bar(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Work on ``total`` things; what is yielded takes how many more are done."""
        started = time.monotonic()
        with Progress(console=self.console, transient=True, disable=not self.console.is_terminal) as progress:
            task = progress.add_task(name, total=total)
            yield lambda count: progress.advance(task, count)
        self._done(f"{name} ({total})", started)

    def warn(self, message: str) -> None:
        self.console.print(f"[yellow]{escape(message)}[/]", highlight=False, soft_wrap=True)

    def say(self, message: str) -> None:
        self.console.print(escape(message), highlight=False, soft_wrap=True)

    def _done(self, name: str, started: float) -> None:
        self.say(f"{name}: {time.monotonic() - started:.1f} s")


SHOWN_BY_BROWSERS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"})
CONVERTED = frozenset({".tif", ".tiff"})
SUPPORTED = SHOWN_BY_BROWSERS | CONVERTED
EXAMPLES = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")


def find_photos(folder: Path) -> list[Path]:
    """The photos in a folder and the folders below it, hidden ones left out, by name.

    Raises SetupError when there is no such folder, or nothing in it that could be a photo.
    """
    if not folder.is_dir():
        kind = "is not a folder" if folder.exists() else "does not exist"
        raise SetupError(f"the photo folder {folder} {kind}; give another one")
    photos = [path for path in folder.rglob("*") if path.suffix.lower() in SUPPORTED and path.is_file()]
    shown = sorted(path for path in photos if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    if not shown:
        raise SetupError(f"the photo folder {folder} holds no photos ({', '.join(sorted(SUPPORTED))})")
    return shown


def example_folder() -> Path:
    """Where scikit-image keeps the photos that it ships. Raises SetupError when scikit-image is not installed."""
    try:
        import skimage.data
    except ImportError as error:
        raise missing_extra("demo", "the example photos come with scikit-image", error) from error
    return Path(skimage.data.__file__).parent


def find_examples(names: Sequence[str] = EXAMPLES) -> list[Path]:
    """Photos of things that scikit-image ships inside its wheel, so that nothing is downloaded."""
    folder = example_folder()
    photos = [folder / name for name in names if (folder / name).is_file()]
    if not photos:
        raise SetupError(f"this scikit-image ships none of {', '.join(names)} in {folder}; give a folder of photos")
    return photos


def lay_out(photo: Path, target: Path) -> Path:
    """Put a photo at ``target`` and return where it came to lie; one that lies there already is left alone.

    It is a hard link where the disk allows it, otherwise a copy; formats that browsers do not show become PNG.
    Raises ImageError when the photo cannot be decoded.
    """
    if photo.suffix.lower() in CONVERTED:
        target = target.with_name(f"{target.name}.png")
    written = photo.stat()
    if target.exists() and target.stat().st_mtime_ns == written.st_mtime_ns:
        return target
    check(photo)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    if photo.suffix.lower() in CONVERTED:
        _convert(photo, target)
        os.utime(target, ns=(written.st_atime_ns, written.st_mtime_ns))
    else:
        _link(photo, target)
    return target


def check(photo: Path) -> None:
    """Decode a photo coarsely. Raises ImageError when it is broken."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(photo, formats=FORMATS) as image:
            image.draft("L", (1, 1))
            image.load()
    except Exception as error:  # Pillow's decoders raise nearly anything on broken files
        raise ImageError(f"{photo} cannot be read: {error}") from error


def _convert(photo: Path, target: Path) -> None:
    with warnings.catch_warnings(action="ignore"), Image.open(photo, formats=FORMATS) as image:
        upright = ImageOps.exif_transpose(image)
        partial = target.with_name(f".{target.name}.partial")
        _eight_bits(upright).save(partial, "PNG")
        partial.replace(target)


def _eight_bits(image: Image.Image) -> Image.Image:
    if not image.mode.startswith(("I", "F")):
        return image.convert("RGB")
    values = np.nan_to_num(np.asarray(image, np.float32))
    low, high = float(values.min()), float(values.max())
    return Image.fromarray(((values - low) * (255 / max(high - low, 1e-9))).astype(np.uint8))


def _link(photo: Path, target: Path) -> None:
    try:
        os.link(photo.resolve(), target)
    except OSError:
        shutil.copy2(photo, target)


@dataclass(frozen=True, slots=True)
class ProjectSpec:
    """What a project shall hold: photos of one folder, laid out below ``document_root``, labels, and a backend."""

    name: str
    root: Path
    photos: Sequence[Path]
    labels: Sequence[str]
    document_root: Path
    backend_url: str

    @property
    def key(self) -> str:
        """Another folder or other labels make another project."""
        return hashlib.sha256("\0".join((str(self.root), *self.labels)).encode()).hexdigest()[:12]

    @property
    def served(self) -> Path:
        """The folder that Label Studio shows to the people of this project."""
        return self.document_root / self.key


@dataclass(frozen=True, slots=True)
class FilledProject:
    """A project with its photos: the masks by label, and how many photos have none or got no answer."""

    project: Project
    photos: int
    masks: Counter[str]
    without_masks: int
    unanswered: int


class Filling:
    """Brings one project to the wanted state."""

    def __init__(self, label_studio: LabelStudio, wanted: ProjectSpec, steps: Steps) -> None:
        self._studio = label_studio
        self._wanted = wanted
        self._steps = steps

    def fill(self) -> FilledProject:
        """Project, backend, photos and masks; nothing of it is made twice."""
        images = self._lay_out()
        with self._steps.step("Project"):
            project = self._project()
            self._studio.serve_folder(project.id, self._wanted.served)
            version = self._attach(project)
            self._import(project, images)
        return self._predict(project, version)

    def _project(self) -> Project:
        wanted = self._wanted
        for project in self._studio.projects():
            if wanted.key in project.description:
                return project
        title = f"{wanted.name}: {', '.join(wanted.labels)}"[:50]
        description = f"Photos of {wanted.root}, made by Maskloom ({wanted.key})"
        return self._studio.create_project(title, recommended_config(wanted.labels), description)

    def _attach(self, project: Project) -> str:
        """Attach the backend and return its model version; a backend at another port, of an earlier run, goes."""
        url = self._wanted.backend_url
        for backend in self._studio.backends(project.id):
            if backend.url.rstrip("/") == url:
                return backend.model_version
            self._studio.detach_backend(project.id, backend)
        return self._studio.attach_backend(project.id, url, "Maskloom").model_version

    def _lay_out(self) -> list[str]:
        wanted, images = self._wanted, []
        with self._steps.bar("Photos", len(wanted.photos)) as advance:
            for photo in wanted.photos:
                try:
                    place = lay_out(photo, wanted.served / photo.relative_to(wanted.root))
                    images.append(f"/data/local-files/?d={quote(str(place.relative_to(wanted.served.parent)))}")
                except ImageError as error:
                    self._steps.warn(f"left out: {error}")
                advance(1)
        if not images:
            raise SetupError(f"none of the {len(wanted.photos)} photos in {wanted.root} can be read")
        return images

    def _import(self, project: Project, images: Sequence[str]) -> None:
        known = {task.data.get("image") for task in self._studio.tasks(project.id)}
        missing = [{"image": image} for image in images if image not in known]
        if missing:
            self._studio.import_tasks(project.id, missing)

    def _predict(self, project: Project, version: str) -> FilledProject:
        waiting = [task.id for task in self._studio.tasks_with_predictions(project.id) if not _answered(task, version)]
        with self._steps.bar("Masks", len(waiting)) as advance:
            for task in waiting:  # one by one: on a slow machine Label Studio's limit of 100 s is for one photo then
                self._studio.retrieve_predictions(project.id, [task])
                advance(1)
        tasks = list(self._studio.tasks_with_predictions(project.id))
        unanswered = sum(not _answered(each, version) for each in tasks)
        empty = sum(not count_masks([each], version) for each in tasks)
        return FilledProject(project, len(tasks), count_masks(tasks, version), empty, unanswered)


def count_masks(tasks: Sequence[Task], version: str) -> Counter[str]:
    """How many brush masks of which label a model version gave to these tasks; of an answer stored twice, one counts."""
    answers = ([each for each in task.predictions if each.model_version == version][-1:] for task in tasks)
    return Counter(
        label
        for answer in answers
        for prediction in answer
        for region in prediction.result
        for label in region["value"].get("brushlabels", ())
    )


def _answered(task: Task, version: str) -> bool:
    return any(prediction.model_version == version for prediction in task.predictions)
