"""Runs over a project: exactly one prediction for each task, whatever Label Studio and the connection do."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sql
from pydantic import SecretStr

from backend.assemble import bulk_context
from backend.bulk import run as run_module
from backend.bulk import values as sink_module
from backend.bulk.run import BulkContext, Progress
from backend.bulk.spec import JobSpec, Selection
from backend.labelstudio.shapes import read_regions
from backend.stores.ledger import FAILED
from backend.values.errors import ConfigError, RemoteError, SetupError, WriteError
from backend.values.settings import Settings
from tests.backend.bulk.runs import drawn, job_of, pipeline, run_of, same
from tests.backend.bulk.studio_double import TOKEN, StudioDouble, running
from tests.backend.serving.test_films import CONFIG, COUNT, check_shown, picture
from tests.backend.video.films import Recipe, write_film

REGION = {"id": "r", "type": "rectanglelabels", "value": {"x": 1, "y": 1, "width": 9, "height": 9, "rectanglelabels": ["red"]}}


@pytest.fixture
def double() -> Iterator[StudioDouble]:
    with running(StudioDouble().with_tasks(20)) as started:
        yield started


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "SETTLING_S", 0.0)
    monkeypatch.setattr(sink_module, "FIRST_PAUSE_S", 0.02)


def parts_of(double: StudioDouble, home: Path, token: str = TOKEN) -> BulkContext:
    where = {"label_studio_url": double.url, "label_studio_token": SecretStr(token), "local_roots": str(home)}
    settings = Settings(engine="colour", home=home, **where)
    return bulk_context(settings, None, threading.Event())


def prelabel(double: StudioDouble, home: Path, spec: JobSpec | None = None, again: bool = False) -> tuple[int, int]:
    """Run to the end; how many tasks are done and how many failed."""
    context = parts_of(double, home)
    job = job_of(context, spec or JobSpec("1"))
    progress = run_of(context, job, again=again).work(pipeline(context, job))
    return progress.done, progress.failed


def test_every_task_gets_one_prediction_with_the_true_masks(double: StudioDouble, tmp_path: Path) -> None:
    assert prelabel(double, tmp_path) == (20, 0)
    assert set(double.per_task().values()) == {1}
    for prediction in double.predictions:
        assert prediction["model_version"] == "colour-1"
        regions = {region.label: region.mask for region in read_regions(prediction["result"])}
        truth = drawn(prediction["task"]).shapes
        assert regions.keys() == truth.keys()
        assert all(same(regions[label], truth[label]) for label in truth)


@pytest.mark.slow
def test_the_same_command_again_does_nothing_and_force_replaces(double: StudioDouble, tmp_path: Path) -> None:
    prelabel(double, tmp_path)
    before = [each["id"] for each in double.predictions]
    prelabel(double, tmp_path)
    assert [each["id"] for each in double.predictions] == before
    prelabel(double, tmp_path, again=True)
    assert set(double.per_task().values()) == {1}
    assert not {each["id"] for each in double.predictions} & set(before)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [429, 503, 500, "drop"])
def test_a_passing_failure_costs_time_and_makes_no_duplicate(double: StudioDouble, tmp_path: Path, fault: int | str) -> None:
    """A connection that ends after Label Studio stored the predictions, but before it said so, is looked into."""
    double.faults = [fault, fault]
    assert prelabel(double, tmp_path) == (20, 0)
    assert set(double.per_task().values()) == {1}


@pytest.mark.slow
def test_a_refusal_of_the_question_what_arrived_is_no_answer_to_it(double: StudioDouble, tmp_path: Path) -> None:
    """Stored, but the connection ended; then Label Studio was too busy to say so. Sent once more, they would be there twice."""
    double.faults, double.busy = ["drop"], [429]
    assert prelabel(double, tmp_path) == (20, 0)
    assert set(double.per_task().values()) == {1}


@pytest.mark.slow
@pytest.mark.parametrize("busy", [[429], [503, 503]])
def test_a_passing_failure_while_old_predictions_are_replaced_costs_time_alone(
    double: StudioDouble, tmp_path: Path, busy: list[int]
) -> None:
    prelabel(double, tmp_path)
    before = {each["id"] for each in double.predictions}
    double.busy = list(busy)
    assert prelabel(double, tmp_path, again=True) == (20, 0)
    assert double.busy == []
    assert set(double.per_task().values()) == {1}
    assert not before & {each["id"] for each in double.predictions}


def test_a_deleted_task_costs_that_task_alone_and_says_why(double: StudioDouble, tmp_path: Path) -> None:
    context = parts_of(double, tmp_path)
    job = job_of(context, JobSpec("1"))
    run = run_of(context, job)
    run.watch = lambda stand: double.tasks.pop(7, None)  # type: ignore[assignment]
    progress = run.work(pipeline(context, job))
    assert (progress.done, progress.failed) == (19, 1)
    (failure,) = context.ledger.entries(run.id, FAILED)
    assert (failure.key, "was the task deleted?" in failure.reason) == ("7", True)
    assert set(double.per_task().values()) == {1}


@pytest.mark.slow
def test_a_disk_that_fills_up_under_the_ledger_in_the_middle_costs_no_prediction_and_doubles_none(
    double: StudioDouble, tmp_path: Path
) -> None:
    """Predictions were sent that the ledger could not note any more: the next run asks Label Studio for them."""
    context, most_pages = parts_of(double.with_tasks(60), tmp_path), [1 << 30]

    @sql.event.listens_for(context.ledger._database._engine, "checkout")
    def limited(connection: object, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {most_pages[0]}")  # type: ignore[attr-defined]

    job = job_of(context, JobSpec("1"))
    run = run_of(context, job)

    def fill_up(stand: Progress) -> None:
        if stand.worked:
            most_pages[0] = 1

    run.watch = fill_up
    with pytest.raises(WriteError, match=r"the disk of the ledger is full .*; make room and run the same command again"):
        run.work(pipeline(context, job))
    assert 0 < len(double.predictions) < 60
    most_pages[0] = 1 << 30
    assert run_of(context, job).work(pipeline(context, job)).done == 60
    assert set(double.per_task().values()) == {1}


@pytest.mark.slow
def test_label_studio_may_restart_in_the_middle(double: StudioDouble, tmp_path: Path) -> None:
    context = parts_of(double, tmp_path)
    job = job_of(context, JobSpec("1"))
    run = run_of(context, job)
    port = int(double.url.rpartition(":")[2])
    threads: list[threading.Thread] = []

    def restart() -> None:
        double.stop()
        time.sleep(1.5)
        double.start(port)

    def once(_stand: object) -> None:
        if not threads:
            threads.append(threading.Thread(target=restart))
            threads[0].start()
            time.sleep(0.3)

    run.watch = once
    progress = run.work(pipeline(context, job))
    threads[0].join()
    assert (progress.done, progress.failed) == (20, 0)
    assert set(double.per_task().values()) == {1}


@pytest.mark.slow
def test_a_label_studio_that_stays_away_ends_the_run_with_what_to_do(
    double: StudioDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    double.faults = [503] * sink_module.ATTEMPTS
    with pytest.raises(RemoteError, match="run the same command again when it is back"):
        prelabel(double, tmp_path)
    assert prelabel(double, tmp_path) == (20, 0)
    assert set(double.per_task().values()) == {1}


def test_a_wrong_token_is_told_with_what_to_do(double: StudioDouble, tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match=r"401 .*Invalid token.*check the token"):
        job_of(parts_of(double, tmp_path, token="f" * 40), JobSpec("1"))


def test_a_token_that_is_revoked_in_the_middle_ends_the_run_and_costs_no_task(double: StudioDouble, tmp_path: Path) -> None:
    double.faults = [401, 401]
    with pytest.raises(RemoteError, match="check the token"):
        prelabel(double, tmp_path)
    assert prelabel(double, tmp_path) == (20, 0)
    assert set(double.per_task().values()) == {1}


def test_without_an_address_it_is_told_what_to_set(tmp_path: Path) -> None:
    context = bulk_context(Settings(engine="colour", home=tmp_path), None, threading.Event())
    with pytest.raises(SetupError, match="--url and --token"):
        job_of(context, JobSpec("1"))


def test_a_project_without_an_image_is_refused(double: StudioDouble, tmp_path: Path) -> None:
    double.config = '<View><Text name="text" value="$text"/></View>'
    with pytest.raises(ConfigError, match="no <Image> tag"):
        job_of(parts_of(double, tmp_path), JobSpec("1"))


def test_labels_that_the_project_lacks_are_refused(double: StudioDouble, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no label cat; it has red, blue"):
        job_of(parts_of(double, tmp_path), JobSpec("1", labels="red, cat"))


def test_only_the_named_labels_are_looked_for(double: StudioDouble, tmp_path: Path) -> None:
    prelabel(double, tmp_path, JobSpec("1", labels="blue"))
    assert {region.label for each in double.predictions for region in read_regions(each["result"])} == {"blue"}


def test_regions_below_the_least_score_of_their_label_are_left_out(double: StudioDouble, tmp_path: Path) -> None:
    prelabel(double, tmp_path, JobSpec("1", min_score="0, red=1"))
    scores = [(region.label, region.score) for each in double.predictions for region in read_regions(each["result"])]
    assert {label for label, _ in scores} >= {"blue"}
    assert all(score == 1 for label, score in scores if label == "red")


def test_only_missing_leaves_out_tasks_that_have_a_prediction(double: StudioDouble, tmp_path: Path) -> None:
    double.predictions = [{"id": 1, "task": 3, "model_version": "other", "score": 0.5, "result": [REGION]}]
    assert prelabel(double, tmp_path, JobSpec("1", selection=Selection(only_missing=True))) == (19, 0)
    assert set(double.per_task().values()) == {1}


@pytest.mark.slow
def test_only_missing_sees_what_earlier_releases_stored_of_tasks_that_failed(double: StudioDouble, tmp_path: Path) -> None:
    """An empty prediction of the very version, which is replaced; a second one beside regions is none."""
    ours = {"model_version": "colour-1", "score": 0.0, "result": []}
    double.predictions = [{**ours, "id": 900 + task, "task": task} for task in range(1, 21)]
    double.predictions.append({**ours, "id": 999, "task": 5, "result": [REGION]})
    order = JobSpec("1", selection=Selection(only_missing=True))
    assert prelabel(double, tmp_path, order) == (19, 0)
    assert Counter(double.per_task().values()) == {1: 19, 2: 1}
    assert double.per_task()[5] == 2
    assert all(each["result"] for each in double.predictions if each["task"] != 5)
    assert prelabel(double, tmp_path, order) == (0, 0), "nobody is asked twice"


def test_only_missing_holds_after_a_run_over_all_tasks_was_stopped(double: StudioDouble, tmp_path: Path) -> None:
    """Those that had a prediction were on that run's list, to be replaced."""
    double.predictions = [
        {"id": 900 + task, "task": task, "model_version": "older", "score": 0.5, "result": [REGION]} for task in range(1, 11)
    ]
    context = parts_of(double, tmp_path)
    job = job_of(context, JobSpec("1"))
    run_of(context, job, limit=1).work(pipeline(context, job))
    prelabel(double, tmp_path, JobSpec("1", selection=Selection(only_missing=True)))
    ours = [each["task"] for each in double.predictions if each["model_version"] == "colour-1"]
    assert sorted(ours) == [1, *range(11, 21)]


@pytest.mark.slow
def test_an_earlier_order_again_has_the_last_word(double: StudioDouble, tmp_path: Path) -> None:
    """The ledger knows that its answers were replaced by those of the order between."""
    prelabel(double, tmp_path)
    prelabel(double, tmp_path, JobSpec("1", labels="blue", selection=Selection(tasks=frozenset({3, 4}))))
    before = {each["id"] for each in double.predictions if each["task"] not in (3, 4)}
    assert prelabel(double, tmp_path) == (20, 0)
    assert set(double.per_task().values()) == {1}
    assert all({region.label for region in read_regions(each["result"])} == {"red", "blue"} for each in double.predictions)
    assert before == {each["id"] for each in double.predictions if each["task"] not in (3, 4)}


@pytest.mark.slow
@pytest.mark.parametrize("other", ["server", "another order"])
def test_a_prediction_of_this_version_is_replaced_whoever_made_it_and_others_stay(
    double: StudioDouble, tmp_path: Path, other: str
) -> None:
    if other == "server":
        double.predictions = [{"id": 901, "task": 3, "model_version": "colour-1", "score": 0.5, "result": []}]
    else:
        prelabel(double, tmp_path, JobSpec("1", labels="blue"))
    double.predictions += [{"id": 902, "task": 4, "model_version": "older", "score": 0.5, "result": []}]
    before = {each["id"] for each in double.predictions}
    assert prelabel(double, tmp_path) == (20, 0)
    assert {task: count for task, count in double.per_task().items() if count != 1} == {4: 2}
    assert before & {each["id"] for each in double.predictions} == {902}


@pytest.mark.slow
def test_force_keeps_the_old_prediction_of_an_image_that_cannot_be_read_now(double: StudioDouble, tmp_path: Path) -> None:
    prelabel(double, tmp_path)
    whole = double.tasks[5]
    double.tasks[5] = {"image": "http://127.0.0.1:9/gone.png"}
    assert prelabel(double, tmp_path / "another home", again=True) == (19, 1)
    assert set(double.per_task().values()) == {1}
    double.tasks[5] = whole
    assert prelabel(double, tmp_path / "a third home") == (20, 0)
    assert set(double.per_task().values()) == {1}


def test_a_task_of_several_images_gets_one_prediction_about_all_of_them(double: StudioDouble, tmp_path: Path) -> None:
    double.config = double.config.replace('value="$image"', 'valueList="$pages"')
    double.tasks = {1: {"pages": ["/data/upload/1/4.png", "/data/upload/1/9.png"]}}
    assert prelabel(double, tmp_path) == (1, 0)
    (prediction,) = double.predictions
    assert {region["item_index"] for region in prediction["result"]} == {0, 1}
    for page, number in enumerate((4, 9)):
        here = read_regions([region for region in prediction["result"] if region["item_index"] == page])
        assert all(same(region.mask, drawn(number).shapes[region.label]) for region in here)
        assert len(here) == 2


def test_a_project_of_films_gets_one_track_for_each_thing_and_a_broken_film_costs_itself(
    double: StudioDouble, tmp_path: Path
) -> None:
    good = write_film(tmp_path / "good.mkv", [picture(k) for k in range(COUNT)], Recipe(codec="ffv1"))
    (tmp_path / "bad.mkv").write_bytes(good.read_bytes()[:300])
    double.config = CONFIG
    double.tasks = {1: {"video": str(good)}, 2: {"video": str(tmp_path / "bad.mkv")}}

    assert prelabel(double, tmp_path) == (1, 1)

    (prediction,) = double.predictions
    found = {region["value"]["labels"][0]: region["value"]["sequence"] for region in prediction["result"]}
    assert sorted(found) == ["blue", "red"]
    for name, sequence in found.items():
        check_shown(sequence, name)
