"""The size of the code and of one walk through it: files, lines, import levels, and the files that a request crosses.

``python -m bench.house`` prints each number beside its bound; ``--strict``, as `make check` has it, fails where a bound is
broken or, where one is not reached yet, where a number is worse than it was when that was last looked at.
"""

from __future__ import annotations

import ast
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).parents[1]
PACKAGES = ("prompts", "backend")
FEW_LINES = 60
OWN_FILES = {
    "video": (
        "backend/video/*.py",
        "backend/cli/video.py",
        "backend/engines/embedded/tracking.py",
        "backend/engines/seem/tracking.py",
        "backend/evaluation/tracks.py",
        "backend/images/films.py",
        "backend/labelstudio/request/event.py",
        "backend/labelstudio/request/video.py",
        "backend/labelstudio/shapes/video_rectangle.py",
        "backend/labelstudio/video_answer.py",
        "backend/serving/films.py",
        "backend/serving/protocol.py",
        "backend/serving/runs.py",
    ),
    "learning": (
        "prompts/examples.py",
        "backend/cli/memory.py",
        "backend/engines/embedded/from_memory.py",
        "backend/evaluation/gate.py",
        "backend/evaluation/training.py",
        "backend/labelstudio/verdicts.py",
        "backend/serving/learning.py",
        "backend/serving/learnt.py",
        "backend/serving/memory_page.py",
        "backend/serving/remembering.py",
        "backend/serving/trainings.py",
        "backend/serving/versions.py",
        "backend/stores/answers.py",
        "backend/stores/balance.py",
        "backend/stores/canaries.py",
        "backend/stores/curation.py",
        "backend/stores/migrations/**/*.py",
        "backend/stores/snapshots.py",
    ),
    "export": ("backend/export/*.py", "backend/cli/export.py"),
    "editing": ("backend/serving/editing.py",),
    "large images": ("backend/images/windows.py", "backend/tiles.py", "backend/tiling.py"),
    "warming": ("backend/bulk/warm.py",),
    "doctor": ("backend/doctor/*.py",),
}
"""The files that a capability brought, beside which all others are counted: the bound is from before them."""
HEIGHT, WIDTH = 240, 320
LABELS = '<Label value="cup"/><Label value="cat"/>'
CONFIG = f"""<View><Image name="image" value="$image"/>
  <BrushLabels name="brush" toName="image">{LABELS}</BrushLabels>
  <KeyPointLabels name="point" toName="image" smart="true">{LABELS}</KeyPointLabels></View>"""


@dataclass(frozen=True)
class Number:
    """One measured number and the most that it may be, None where there is no bound; ``reached`` is what it may be for now,
    where that is more.
    """

    what: str
    value: float
    most: float | None = None
    reached: float = 0

    @property
    def is_kept(self) -> bool:
        """Whether the number is within its bound."""
        return self.most is None or self.value <= self.most

    @property
    def has_fallen_back(self) -> bool:
        """Whether the number is neither within its bound nor as good as it was."""
        return not self.is_kept and self.value > self.reached

    def __str__(self) -> str:
        bound = "" if self.most is None else f"<= {self.most:g}"
        return f"{self.what:44}{self.value:8g}   {bound:8}{'' if self.is_kept else '  broken'}"


@dataclass
class Walk:
    """The calls of one request within our own files: a profile function for every thread that starts while it is set."""

    files: set[str] = field(default_factory=set)
    functions: set[tuple[str, str]] = field(default_factory=set)
    calls: int = 0
    moves: int = 0
    _last: dict[int, str] = field(default_factory=dict)

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """Count a call; a move is a call in another file than the one before, in one thread."""
        file = frame.f_code.co_filename
        if event != "call" or not file.startswith(FOLDERS):
            return
        self.calls += 1
        self.files.add(file)
        self.functions.add((file, frame.f_code.co_qualname))
        thread = threading.get_ident()
        self.moves += self._last.get(thread, file) != file
        self._last[thread] = file


FOLDERS = tuple(f"{ROOT / package}/" for package in PACKAGES)


def sources() -> list[Path]:
    """The files of the packages."""
    return sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))


def module_name(file: Path) -> str:
    """The dotted name of a file of ours."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_at_once(statements: list[ast.stmt], modules: Container[str]) -> Iterator[str]:
    """What is imported while a module is imported: nothing within functions, and nothing for the type checker alone.

    ``from package import name`` imports the module ``name`` where there is one, and else the package itself.
    """
    for statement in statements:
        if isinstance(statement, ast.Import):
            yield from (name.name for name in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            full = (f"{statement.module}.{name.name}" for name in statement.names)
            yield from (name if name in modules else statement.module for name in full)
        elif (isinstance(statement, ast.If) and "TYPE_CHECKING" not in ast.unparse(statement.test)) or isinstance(
            statement, ast.Try
        ):
            yield from imported_at_once([*statement.body, *statement.orelse], modules)


def import_chain() -> list[str]:
    """The modules of the longest chain of imports."""
    files = {module_name(file): file for file in sources()}
    imports = {
        module: set(imported_at_once(ast.parse(file.read_text(encoding="utf-8")).body, files)) & files.keys() - {module}
        for module, file in files.items()
    }
    chains: dict[str, list[str]] = {}

    def chain(module: str) -> list[str]:
        if module not in chains:
            chains[module] = []  # a cycle, which the import rules forbid, would end here
            chains[module] = [module, *max(map(chain, sorted(imports[module])), key=len, default=[])]
        return chains[module]

    return max(map(chain, files), key=len)


def has_code(file: Path) -> bool:
    """Whether a file is more than the mark of a package: more than a sentence about it."""
    return any(not isinstance(statement, ast.Expr) for statement in ast.parse(file.read_text(encoding="utf-8")).body)


def own_files() -> dict[str, set[Path]]:
    """The files of each capability. Raises ValueError for one in the list that is not there any more."""
    own: dict[str, set[Path]] = {}
    for capability, patterns in OWN_FILES.items():
        found = {pattern: set(ROOT.glob(pattern)) for pattern in patterns}
        if gone := [pattern for pattern, files in found.items() if not files]:
            raise ValueError(f"OWN_FILES names files that are not there: {', '.join(gone)}")
        own[capability] = set[Path]().union(*found.values())
    return own


def size_numbers() -> Iterator[Number]:
    """What can be counted without running anything."""
    lines = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in sources()}
    own = own_files()
    yield Number("files in backend and prompts", len(lines))
    for capability, files in own.items():
        yield Number(f"  of these brought by {capability}", len(files))
    yield Number("  all others", len(lines.keys() - set[Path]().union(*own.values())), 125, reached=127)
    yield Number("lines in all", sum(lines.values()))
    yield Number("lines of the median file", statistics.median(lines.values()))
    yield Number("lines of the longest file", max(lines.values()), 350, reached=355)
    short = [file for file, count in lines.items() if count < FEW_LINES and has_code(file)]
    yield Number(f"files with code under {FEW_LINES} lines", len(short), 14)
    yield Number("import levels", len(import_chain()), 11)
    yield Number("modules flat in backend/", len(list((ROOT / "backend").glob("*.py"))), 15)


def photo(shift: int) -> NDArray[np.uint8]:
    """A bright ellipse ``(H, W, 3)`` before a dark slope; another picture for every shift."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    inside = ((rows - 120) / 60) ** 2 + ((columns - 160 - shift) / 80) ** 2 < 1
    picture = np.stack([rows // 4, columns // 6, np.full_like(rows, 40)], axis=-1)
    picture[inside] = (220, 60, 50)
    return picture.astype(np.uint8)


def click() -> dict[str, Any]:
    """What the page sends for a click in the middle."""
    value = {"x": 50.0, "y": 50.0, "width": 0.5, "keypointlabels": ["cup"]}
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    named = {"id": "click", "type": "keypointlabels", "from_name": "point", "to_name": "image", "origin": "manual"}
    return {**named, **size, "value": value, "is_positive": True}


def walk(client: TestClient, image: Path, context: dict[str, Any] | None) -> Walk:
    """The calls of one request. Raises RuntimeError when it is not answered."""
    task = {"id": int(image.stem), "data": {"image": str(image)}, "annotations": [], "predictions": [], "drafts": []}
    body = {"tasks": [task], "project": "1.17", "label_config": CONFIG, "params": {"context": context}}
    walked = Walk()
    threading.setprofile(walked)
    try:
        response = client.post("/predict", json=body)
    finally:
        threading.setprofile(None)
    (answer,) = response.raise_for_status().json()["results"]
    if "error" in answer or (context and not answer["result"]):
        raise RuntimeError(f"the request that is walked was answered by {answer}")
    return walked


def walk_numbers(folder: Path) -> Iterator[Number]:
    """A photo is opened and then clicked on, over HTTP, with the embedded engine, which another photo has warmed up."""
    from backend.app import create_app
    from backend.assemble import assemble
    from backend.images.address import SETTLED_S
    from backend.values.settings import Settings

    client = TestClient(create_app(assemble(Settings(engine="embedded", home=folder / "home", local_roots=str(folder)))))
    requests: dict[str, dict[str, Any] | None] = {"pre-annotation": None, "click": {"result": [click()]}}
    images = [folder / f"{number}.png" for number in (1, 2)]
    for number, image in enumerate(images):
        Image.fromarray(photo(number)).save(image)
    time.sleep(SETTLED_S)  # or they are looked into with every request, as they have just been written
    for image in images:
        walks = {what: walk(client, image, context) for what, context in requests.items()}
    for (what, walked), (most, reached) in zip(walks.items(), ((None, 0), (28, 42)), strict=True):
        yield Number(f"files that an embedded {what} crosses", len(walked.files), most, reached)
        yield Number(f"moves between them in a {what}", walked.moves)
        yield Number(f"functions that a {what} calls", len(walked.functions))


def main(arguments: list[str]) -> int:
    """Print the table; 1 when something has fallen back and ``--strict`` is among the arguments."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        table = [*size_numbers(), *walk_numbers(Path(folder))]
    print("\n".join(map(str, table)))
    print(f"the longest chain of imports: {' > '.join(import_chain())}")
    broken = [number.what for number in table if number.has_fallen_back]
    return int(bool(broken) and "--strict" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
