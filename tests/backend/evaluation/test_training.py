"""Training finds from which score on a suggestion is worth making, and is used only where held-back tasks get better by it; on
real images and a real database, with the colour engine.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.assemble import training
from backend.caches import DiskCache
from backend.evaluation import training as module
from backend.evaluation.gate import Tasks
from backend.evaluation.training import FEWEST, FEWEST_TASKS, SAVED, Suggestion, Trained, fit_least, split
from backend.serving.learning import Learning
from backend.serving.learnt import PLACES
from backend.stores.database import Database
from backend.stores.memory import MemoryBank
from backend.stores.snapshots import Snapshots
from backend.values.errors import RequestError
from backend.values.masks import RunLengths
from backend.values.session import Example, ForNames, Round, Submission, Verdict
from backend.values.settings import Settings
from prompts.phrases import Vocabulary
from tests.backend.pictures import disc, square

pytestmark = pytest.mark.slow

KEY, TASKS = "1@1", 18
RED = np.array([180.0, 60.0, 60.0])
AROUND = [np.array((a, b, c)) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]
"""The corners of a cube: each is nearer to the middle than to any other."""
CORNER = square(48, 64, 0, 0, 6)
DISC, SPECK = disc(48, 64, 20, 24, 12), square(48, 64, 46, 20, 6)


def settings_of(home: Path) -> Settings:
    return Settings(engine="colour", home=home, local_roots=str(home))


def bank_of(home: Path) -> MemoryBank:
    return MemoryBank(Database(settings_of(home).database_url))


def annotate(home: Path, number: int, has_speck: bool) -> None:
    """An image with a red disc that was accepted and, it may be, a speck of a colour of its own near it, which was not."""
    pixels = np.full((48, 64, 3), 255, np.uint8)
    pixels[DISC] = RED
    if has_speck:
        pixels[SPECK] = RED + 12 * AROUND[number]
    Image.fromarray(pixels).save(home / f"{number}.png")
    region = Example(KEY, str(number), str(number), "r", str(home / f"{number}.png"), "zorp", RunLengths.of(DISC))
    bank_of(home).submit(Submission(KEY, str(number), str(number), (region,), made_at=1_795_000_000.0 + number))


def train(home: Path) -> Trained:
    return training(settings_of(home)).train(KEY)


def with_specks(home: Path) -> None:
    for number in range(TASKS):
        annotate(home, number, number < len(AROUND))


def suggested(home: Path) -> int:
    """How many regions are suggested for the first task, which has a speck, without what it teaches itself."""
    gate, words = training(settings_of(home)).gate, Vocabulary.from_names(["zorp"])
    database = Database(settings_of(home).database_url)
    places = DiskCache(home / "places", "1", 1 << 24, PLACES)
    learning = Learning(MemoryBank(database), gate.images, places, Snapshots(database).least)
    learnt = learning.learnt(KEY, words, gate.segmenter(), 60.0)
    image = gate.images.load(str(home / "0.png"), KEY, None)
    (done,) = gate.segmenter().segment([ForNames(image, words, learnt.besides("0"))])
    assert isinstance(done, Round)
    return len(done.masks)


def test_what_makes_held_back_tasks_better_is_adopted_as_a_version_and_can_be_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FEWEST", 3)
    with_specks(tmp_path)
    assert suggested(tmp_path) == 2, "the disc and the speck"
    done = train(tmp_path)
    assert done.adopted is not None
    assert done.report["quality"] > done.report["quality_before"] + 0.1
    assert (done.adopted.is_for_bulk, done.adopted.least.keys()) == (True, {"zorp"})
    assert suggested(tmp_path) == 1
    snapshots = Snapshots(Database(settings_of(tmp_path).database_url))
    annotate(tmp_path, 50, False)
    frozen = snapshots.freeze(KEY)
    assert frozen is not None
    assert frozen.least == done.adopted.least, "a version frozen later goes on with it"
    snapshots.choose(KEY, None)
    assert suggested(tmp_path) == 2


def test_where_every_suggestion_is_right_nothing_is_adopted(tmp_path: Path) -> None:
    for number in range(TASKS):
        annotate(tmp_path, number, False)
    done = train(tmp_path)
    assert (done.adopted, done.report["least"]) == (None, {})
    assert not any(each.is_for_bulk for each in Snapshots(Database(settings_of(tmp_path).database_url)).all(KEY))


def test_what_makes_held_back_tasks_worse_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_specks(tmp_path)
    monkeypatch.setattr(module, "fit_least", lambda suggestions: {"zorp": 2.0})
    done = train(tmp_path)
    assert done.adopted is None
    assert done.report["quality"] == 0.0 < done.report["quality_before"]
    assert suggested(tmp_path) == 2


def test_too_few_tasks_are_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=f"{FEWEST_TASKS} annotated tasks at least; project 1@1 has 0"):
        train(tmp_path)


def test_a_cut_lies_where_most_interactions_are_saved_and_needs_enough_of_either_kind() -> None:
    def made(label: str, right: list[float], wrong: list[float]) -> list[Suggestion]:
        return [Suggestion(label, s, True) for s in right] + [Suggestion(label, s, False) for s in wrong]

    high, low = [0.9, 0.8, 0.7, 0.65, 0.6], [0.5, 0.4, 0.3, 0.2, 0.1]
    assert fit_least(made("a", high, low)) == {"a": pytest.approx(0.55)}
    assert fit_least(made("a", high, low[1:])) == {}, f"{FEWEST} of either kind are needed"
    assert fit_least(made("a", [*high, 0.05], [*low, 0.15])) == {"a": pytest.approx(0.55)}
    assert fit_least(made("a", [*high, *[0.05] * 4], low)) == {}, f"four that save {SAVED} each are worth five that do not"


def test_which_tasks_are_held_back_with_all_their_images_depends_on_their_numbers_alone() -> None:
    tasks: Tasks = {(str(number), page): [] for number in range(30) for page in ("first", "second")}
    held, own = split(tasks)
    assert (len(held), len(own), {task for task, _ in held} & {task for task, _ in own}) == (20, 40, set())
    assert split(dict(reversed(tasks.items())))[0].keys() == held.keys()


def test_training_still_names_the_regions_that_look_wrong(tmp_path: Path) -> None:
    for number in range(FEWEST_TASKS):
        annotate(tmp_path, number, False)
    region = Example(KEY, "0", "0", "wrong", str(tmp_path / "0.png"), "zorp", RunLengths.of(CORNER))
    bank_of(tmp_path).submit(Submission(KEY, "0", "0", (region,), made_at=1_796_000_000.0))
    (doubt,) = train(tmp_path).report["doubtful"]
    assert (doubt["task"], doubt["region"], doubt["label"], doubt["looks_like"]) == ("0", "wrong", "zorp", "")


def test_rejected_regions_are_not_accepted_ones(tmp_path: Path) -> None:
    """A region that was deleted is no truth that a suggestion could be right about."""
    with_specks(tmp_path)
    region = Example(KEY, "0", "77", "no", str(tmp_path / "0.png"), "zorp", RunLengths.of(SPECK), Verdict.REJECTED)
    bank_of(tmp_path).submit(Submission(KEY, "0", "77", (region,), made_at=1_796_000_000.0))
    assert train(tmp_path).report["regions"] == TASKS // 3
