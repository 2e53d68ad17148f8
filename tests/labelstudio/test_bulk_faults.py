"""What goes wrong in bulk runs through a real Label Studio: each says what to do, makes no duplicate, and can be resumed."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from backend import assemble as assemble_module
from backend.assemble import bulk_context
from backend.background import AwayError
from backend.bulk.run import BulkContext, Progress, Run
from backend.bulk.spec import JobSpec, resolve
from backend.bulk.values import StudioSink
from backend.demo.label_studio import Studio
from backend.labelstudio.api import LabelStudio, Project
from backend.stores.ledger import FAILED
from backend.values.settings import Settings
from tests.backend.bulk.runs import pipeline
from tests.labelstudio.test_bulk_live import COUNT, project, run, start

__all__ = ["project"]
pytestmark = [pytest.mark.studio, pytest.mark.timeout(900)]

FORGED = "eyJhbGciOiJIUzI1NiJ9.eyJ0b2tlbl90eXBlIjoicmVmcmVzaCJ9.c2lnbmF0dXJl"
"""A personal access token in form, signed by nobody."""


@contextmanager
def parts_of(studio: Studio, home: Path) -> Iterator[BulkContext]:
    """The context of ``maskloom prelabel`` over the ledger in ``home``, so that the command can go on with what they did."""
    settings = Settings(
        engine="colour",
        home=home,
        local_roots=str(home),
        label_studio_url=studio.url,
        label_studio_token=SecretStr(studio.account.token),
    )
    context = bulk_context(settings, None, threading.Event())
    with closing(context.images):
        yield context


@dataclass
class Begun:
    """A run over a project, which calls ``watch`` whenever predictions were written."""

    context: BulkContext
    label_studio: LabelStudio
    project: Project
    watch: Callable[[Progress], None]

    def __post_init__(self) -> None:
        stop = threading.Event()
        self.job = resolve(JobSpec(str(self.project.id)), self.context.engine.version, lambda: self.label_studio, stop)
        self.run = Run(self.context, self.job, self.watch, stop)

    def impatient(self) -> Begun:
        assert isinstance(self.job.sink, StudioSink)
        self.run.job = replace(self.job, sink=replace(self.job.sink, patience_s=2.0))
        return self

    def work(self) -> Progress:
        return self.run.work(pipeline(self.context, self.job))


class InTheMiddle:
    """Does something once, after the first predictions were written."""

    def __init__(self, deed: Callable[[], None]) -> None:
        self._deed = deed
        self.thread: threading.Thread | None = None

    def __call__(self, stand: Progress) -> None:
        if stand.worked and self.thread is None:
            self.thread = threading.Thread(target=self._deed)
            self.thread.start()
            self.thread.join()


def stop_studio(studio: Studio) -> None:
    studio.__exit__()


def start_studio(studio: Studio) -> None:
    """On the same port, over the same data."""
    studio.__enter__()
    studio.wait_until_ready()


@pytest.fixture
def restartable(studio: Studio) -> Iterator[Studio]:
    """The shared Label Studio, which runs again when the test is over, however it ends."""
    yield studio
    if studio.child.exit_code() is not None:
        start_studio(studio)


def per_task(label_studio: LabelStudio, project: Project) -> Counter[int]:
    """How many tasks have how many predictions."""
    return Counter(task.predictions for task in label_studio.list_tasks(project.id))


@pytest.mark.parametrize(
    ("token", "advice"),
    [
        ("f" * 40, "check the token (--token or MASKLOOM_LABEL_STUDIO_TOKEN)"),
        (FORGED, "make a new one in its account settings"),
    ],
)
def test_a_wrong_token_is_told_and_the_right_one_goes_on(
    studio: Studio, label_studio: LabelStudio, project: Project, tmp_path: Path, token: str, advice: str
) -> None:
    run(studio, tmp_path, "prelabel", str(project.id), "--limit", "5")
    with start(studio, tmp_path, "prelabel", str(project.id), "--resume", "--token", token) as refused:
        said, _ = refused.communicate(timeout=300)
    assert refused.returncode not in (0, None)
    assert advice in " ".join(said.split())
    assert "Traceback" not in said
    assert per_task(label_studio, project) == {1: 5, 0: COUNT - 5}
    run(studio, tmp_path, "prelabel", str(project.id), "--resume")
    assert per_task(label_studio, project) == {1: COUNT}


def test_a_project_without_an_image_is_refused(studio: Studio, label_studio: LabelStudio, tmp_path: Path) -> None:
    config = '<View><Text name="text" value="$text"/><Choices name="kind" toName="text"><Choice value="a"/></Choices></View>'
    texts = label_studio.create_project("no images", config)
    label_studio.import_tasks(texts.id, [{"text": "a cat"}])
    with start(studio, tmp_path, "prelabel", str(texts.id)) as refused:
        said, _ = refused.communicate(timeout=300)
    assert refused.returncode not in (0, None)
    assert "the labelling config has no <Image> tag" in " ".join(said.split())
    assert "Traceback" not in said
    assert per_task(label_studio, texts) == {0: 1}


def test_a_task_that_is_deleted_in_the_middle_costs_that_task_alone(
    studio: Studio, label_studio: LabelStudio, project: Project, tmp_path: Path
) -> None:
    last = max(task.id for task in label_studio.list_tasks(project.id))
    delete = InTheMiddle(lambda: label_studio.call("DELETE", f"/api/tasks/{last}/"))
    with parts_of(studio, tmp_path) as context:
        begun = Begun(context, label_studio, project, delete)
        progress = begun.work()
        (failure,) = context.ledger.entries(begun.run.id, FAILED)
    assert (progress.done, progress.failed) == (COUNT - 1, 1)
    assert failure.key == str(last)
    assert "was the task deleted?" in failure.reason
    assert per_task(label_studio, project) == {1: COUNT - 1}
    assert f"{COUNT - 1} of {COUNT - 1} images done" in run(studio, tmp_path, "prelabel", str(project.id), "--resume")
    assert per_task(label_studio, project) == {1: COUNT - 1}


def test_label_studio_may_restart_in_the_middle(
    restartable: Studio, label_studio: LabelStudio, project: Project, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes while predictions are on their way, and the run waits for it."""
    back: list[threading.Thread] = []

    def restart() -> None:
        stop_studio(restartable)
        back.append(threading.Thread(target=start_studio, args=(restartable,)))
        back[0].start()

    with parts_of(restartable, tmp_path) as context, caplog.at_level(logging.WARNING):
        progress = Begun(context, label_studio, project, InTheMiddle(restart)).work()
    back[0].join()
    assert (progress.done, progress.failed) == (COUNT, 0)
    assert "Label Studio does not answer; waiting for it, for at most 600 s" in caplog.text
    assert per_task(label_studio, project) == {1: COUNT}


@pytest.mark.long
def test_label_studio_that_stays_away_ends_the_run_which_can_be_resumed(
    restartable: Studio, label_studio: LabelStudio, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assemble_module, "LABEL_STUDIO_PATIENCE_S", 2.0)
    with parts_of(restartable, tmp_path) as context:
        begun = Begun(context, label_studio, project, InTheMiddle(lambda: stop_studio(restartable))).impatient()
        with pytest.raises(AwayError, match="run the same command again when it is back"):
            begun.work()
        row = context.ledger.run(begun.run.id)
        assert row is not None
        assert row.state == "broken"
        assert context.ledger.counts(begun.run.id)[FAILED] == 0
    start_studio(restartable)
    assert f"{COUNT} of {COUNT} images done" in run(restartable, tmp_path, "prelabel", str(project.id), "--resume")
    assert per_task(label_studio, project) == {1: COUNT}


def test_the_mode_that_label_studio_keeps_for_the_project_is_honoured(
    studio: Studio, label_studio: LabelStudio, project: Project, colour_backend: str, tmp_path: Path
) -> None:
    """Its settings of the backend give a bulk run what they give "Retrieve predictions"."""
    body = {
        "project": project.id,
        "url": colour_backend,
        "title": "Maskloom",
        "extra_params": {"output": "polygon", "max_regions": 1},
    }
    label_studio.call("POST", "/api/ml/", json=body)
    run(studio, tmp_path, "prelabel", str(project.id), "--limit", "3")
    first, *_ = [task.id for task in label_studio.list_tasks(project.id) if task.predictions]
    (ours,) = label_studio.task(first).predictions
    label_studio.delete_prediction(ours.id)
    label_studio.retrieve_predictions(project.id, [first])
    (its,) = label_studio.task(first).predictions
    assert [{**region, "id": ""} for region in ours.result] == [{**region, "id": ""} for region in its.result]
    assert [region["type"] for region in its.result] == ["polygonlabels"]
