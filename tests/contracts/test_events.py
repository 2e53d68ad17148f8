"""The event protocol, event by event, as the open front end sends it; the colour engine answers."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from PIL import Image

from backend.app import create_app
from backend.assemble import Parts, assemble
from backend.serving.runs import MOST_RUNNING
from backend.values.settings import Settings
from prompts.geometry import BoolArray
from tests.backend.serving.test_films import COUNT, HEIGHT, WIDTH, picture, places, square, truth
from tests.backend.video.films import Recipe, write_film

VIDEO = (
    '<View><Video name="video" value="$video" frameRate="24"/><VideoRectangle name="box" toName="video"/>'
    '<Labels name="labels" toName="video"><Label value="red"/></Labels></View>'
)
IMAGE = (
    '<View><Image name="image" value="$image"/><BitmaskLabels name="m" toName="image"><Label value="red"/>'
    "</BitmaskLabels></View>"
)


class Page:
    """The front end before one task."""

    def __init__(self, client: TestClient, data: dict[str, str], config: str = VIDEO, task: int = 3) -> None:
        self._client = client
        self._task = {"id": task, "data": data}
        self._config = config

    def sends(self, **context: Any) -> dict[str, Any]:
        """An event; the first result of the answer, empty without one."""
        body = {"project": "7.1", "label_config": self._config, "tasks": [self._task], "params": {"context": context}}
        response = self._client.post("/predict", json=body)
        assert response.status_code == 200
        (answer,) = response.json()["results"]
        return dict(answer["result"][0]) if answer["result"] else {}

    def follows(self, name: str, number: int, **more: Any) -> dict[str, Any]:
        x0, y0, x1, y1 = truth(name, number) or (0.0, 0.0, 1.0, 1.0)
        value = {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0, "rectanglelabels": ["red"]}
        box = {"type": "rectanglelabels", "to_name": "video", "value": value}
        return self.sends(event="track", frame=number + 1, time_ms=number / 24 * 1000, result=[box], **more)

    def polls(self, session: str) -> Iterator[dict[str, Any]]:
        """The values of polls until one is done."""
        for _ in range(200):
            value = self.sends(event="track_progress", session_id=session)["value"]
            yield value
            if value["done"]:
                return

    def frames(self, session: str) -> dict[int, dict[str, Any]]:
        return {frame["frame"]: frame for value in self.polls(session) for frame in value["frames"]}


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write_film(tmp_path / "film.mkv", [picture(k) for k in range(COUNT)], Recipe(codec="ffv1"))


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return assemble(Settings(engine="colour", home=tmp_path / "home", local_roots=str(tmp_path)))


@pytest.fixture
def page(parts: Parts, film: Path) -> Iterator[Page]:
    with TestClient(create_app(parts)) as client:
        yield Page(client, {"video": str(film)})


def foreground(address: str) -> BoolArray:
    """As the front end reads a mask: the red channel above 127 of the picture over transparent black."""
    drawn = Image.open(io.BytesIO(base64.b64decode(address.partition("base64,")[2]))).convert("RGBA")
    pixels = np.asarray(drawn)
    red: BoolArray = (pixels[..., 0] > 127) & (pixels[..., 3] > 0)
    assert np.array_equal(red, pixels[..., 3] > 0), "BitmaskLabels reads what is opaque"
    return red


def test_capabilities_are_told_without_a_look_at_the_task(page: Page) -> None:
    nothing = Page(page._client, {}, "", 0)

    answer = nothing.sends(event="capabilities")

    assert answer["type"] == "capabilities"
    assert answer["value"]["prompts"] == ["point", "box"]
    targets = {target["tag"]: target for target in answer["value"]["targets"]}
    assert targets["VideoRectangle"] == {"tag": "VideoRectangle", "output": "bbox", "features": ["track"]}
    assert targets["BitmaskLabels"]["output"] == "mask"
    assert set(answer["value"]["model_info"]) == {"name", "version"}


def test_prewarm_tells_how_long_the_film_is(page: Page) -> None:
    answer = page.sends(event="prewarm", frame=5, window=20, direction="both")

    assert answer["type"] == "prewarm_ack"
    assert answer["value"] == {"status": "ready", "cached": 1, "pending": 0, "frame_count": COUNT}


@pytest.mark.parametrize("number", [0, 7, 30])
def test_a_click_on_a_frame_is_answered_with_its_mask_for_both_readers(number: int, page: Page) -> None:
    x, y = places(number)["red"]
    point = {"x": (x + 8) / WIDTH * 100, "y": (y + 8) / HEIGHT * 100, "positive": True, "keypointlabels": ["red"]}

    answer = page.sends(frame=99, time_ms=number / 24 * 1000, result=[{"type": "keypointlabels", "value": point}])

    np.testing.assert_array_equal(foreground(answer["value"]["imageDataURL"]), square("red", number))


def test_a_click_on_an_image_says_itself_whether_it_is_positive(page: Page, tmp_path: Path) -> None:
    Image.fromarray(picture(20)).save(tmp_path / "a.png")
    image = Page(page._client, {"image": str(tmp_path / "a.png")}, IMAGE)
    points = [((84, 12), True), ((94, 45), False)]
    result = [
        {"type": "keypointlabels", "value": {"x": x / WIDTH * 100, "y": y / HEIGHT * 100, "positive": is_positive}}
        for (x, y), is_positive in points
    ]

    answer = image.sends(result=result)

    np.testing.assert_array_equal(foreground(answer["value"]["imageDataURL"]), square("red", 20))
    assert image.sends(result=[{"type": "keypointlabels", "value": {"x": 500, "y": 5, "positive": True}}]) == {}


def test_a_track_comes_frame_by_frame_with_times_from_which_the_page_gets_its_own_numbers(page: Page) -> None:
    started = page.follows("red", 2, direction="forward", max_frames=10)

    assert started["type"] == "track_started"
    assert started["value"]["total_frames"] == 10
    assert (started["value"]["fps"], started["value"]["duration_ms"]) == (24, pytest.approx(1500, abs=2))
    values = list(page.polls(started["value"]["session_id"]))
    frames = {frame["frame"]: frame for value in values for frame in value["frames"]}
    assert sorted(frames) == list(range(2, 12))
    assert (values[-1]["produced"], values[-1]["total"], values[-1]["error"]) == (10, 10, None)
    for number, frame in frames.items():
        assert round(frame["time_ms"] / 1000 * 24) + 1 == number + 1
        assert (frame["width"], frame["height"]) == (WIDTH, HEIGHT)
        np.testing.assert_array_equal(foreground(frame["imageDataURL"]), square("red", number))


def test_a_track_goes_both_ways_and_leaves_frames_out_on_which_the_object_is_not(page: Page) -> None:
    started = page.follows("red", 20, direction="both", max_duration_ms=10_000)
    backwards = page.follows("blue", 20, direction="backward", max_frames=500)

    assert sorted(page.frames(started["value"]["session_id"])) == [k for k in range(COUNT) if "red" in places(k)]
    assert sorted(page.frames(backwards["value"]["session_id"])) == list(range(12, 21))


def test_a_track_begins_with_the_mask_that_was_accepted_and_not_with_its_box(page: Page) -> None:
    """In the box around an L the rest of the picture has another colour than the L, and is not followed."""
    x, y = places(5)["red"]
    point = {"x": (x + 8) / WIDTH * 100, "y": (y + 8) / HEIGHT * 100, "positive": True}
    page.sends(time_ms=5 / 24 * 1000, frame=6, result=[{"type": "keypointlabels", "value": point}])

    frames = page.frames(page.follows("red", 5, max_frames=3)["value"]["session_id"])

    np.testing.assert_array_equal(foreground(frames[5]["imageDataURL"]), square("red", 5))


def typed(text: str) -> dict[str, Any]:
    return {"type": "textarea", "to_name": "video", "value": {"text": [text]}}


def test_a_text_finds_each_thing_of_its_name_on_the_frame_and_a_track_follows_the_surest(page: Page) -> None:
    found = page.sends(time_ms=20 / 24 * 1000, frame=21, result=[typed("find the blue")])
    np.testing.assert_array_equal(foreground(found["value"]["imageDataURL"]), square("blue", 20))

    started = page.sends(event="track", frame=21, time_ms=20 / 24 * 1000, max_frames=5, result=[typed("blue")])
    frames = page.frames(started["value"]["session_id"])

    assert sorted(frames) == list(range(20, 25))
    for number, frame in frames.items():
        shown, there = foreground(frame["imageDataURL"]), square("blue", number)
        assert (shown & there).sum() / (shown | there).sum() > 0.85  # edges of the film's colours are blurred
    assert page.sends(time_ms=0, frame=1, result=[typed("blue")]) == {}, "blue comes on frame 12"
    refused = page.sends(event="track", frame=1, time_ms=0, result=[typed("blue")])
    assert (refused["type"], refused["value"]["error"]) == ("track_error", "nothing of blue is found on frame 1")


@pytest.mark.slow
def test_a_session_whose_masks_nobody_takes_waits_with_few_of_them(page: Page, parts: Parts, monkeypatch: Any) -> None:
    monkeypatch.setattr("backend.serving.protocol.MOST_WAITING_BYTES", 1000)
    session = page.follows("blue", 12)["value"]["session_id"]
    run = parts.service.events._runs.find(session)  # type: ignore[attr-defined]
    deadline = time.monotonic() + 10
    while run.nbytes <= 1000 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)

    waiting = (run.produced, run.nbytes, run.is_done)
    frames = page.frames(session)

    assert waiting[0] < 8
    assert waiting[1] < 1600
    assert not waiting[2]
    assert sorted(frames) == list(range(12, COUNT))
    assert run.nbytes == 0


def test_a_session_that_was_cancelled_or_released_or_never_was_is_told(page: Page) -> None:
    one = page.follows("red", 0)["value"]["session_id"]
    other = page.follows("blue", 20)["value"]["session_id"]

    assert page.sends(event="track_cancel", session_id=one)["type"] == "track_cancel_ack"
    assert "no such session" in page.sends(event="track_progress", session_id=one)["value"]["error"]
    assert page.sends(event="release")["type"] == "release_ack"
    gone = page.sends(event="track_progress", session_id=other)["value"]
    assert gone["done"]
    assert "no such session" in gone["error"]
    assert page.sends(event="track_cancel", session_id="never")["type"] == "track_cancel_ack"


def test_what_cannot_be_tracked_is_an_error_in_its_answer(page: Page, tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_bytes(b"no film")

    assert page.sends(event="track", frame=1, result=[])["type"] == "track_error"
    answer = Page(page._client, {"video": str(tmp_path / "no.mp4")}).follows("red", 0)
    assert answer["type"] == "track_error"
    assert "it is no video" in answer["value"]["error"]
    assert page.sends(event="no such event") == {}


@pytest.mark.slow
def test_eight_sessions_at_once_get_no_frame_of_another(page: Page, parts: Parts) -> None:
    names = [("red", 0), ("blue", 20)] * (MOST_RUNNING // 2)

    def followed(which: tuple[str, int]) -> dict[int, dict[str, Any]]:
        return page.frames(page.follows(*which)["value"]["session_id"])

    with ThreadPoolExecutor(MOST_RUNNING) as pool:
        for (name, first), frames in zip(names, pool.map(followed, names), strict=True):
            assert sorted(frames) == [k for k in range(first, COUNT) if name in places(k)]
            for number, frame in frames.items():
                shown, there = foreground(frame["imageDataURL"]), square(name, number)
                assert (shown & there).sum() / (shown | there).sum() > 0.85  # edges of the film's colours are blurred


@pytest.mark.slow
def test_one_session_too_many_is_busy(page: Page, parts: Parts) -> None:
    """The device is held by somebody else, so that no session comes on."""
    segmenter = parts.engine.segmenter()
    with segmenter._device:
        started = [page.follows("red", 0) for _ in range(MOST_RUNNING + 1)]

    assert [each["type"] for each in started] == ["track_started"] * MOST_RUNNING + ["track_busy"]
    first = started[0]["value"]["session_id"]
    assert sorted(page.frames(first)) == [k for k in range(COUNT) if "red" in places(k)]


class Sessions(RuleBasedStateMachine):
    """Whatever is done to the sessions of two annotators, each gives its own object's frames, once and in order."""

    page: ClassVar[Page]
    parts: ClassVar[Parts]

    def __init__(self) -> None:
        super().__init__()
        self.desks = {
            name: Page(self.page._client, self.page._task["data"], task=task) for name, task in (("red", 3), ("blue", 4))
        }
        self.frames: dict[str, list[int]] = {}
        self.of: dict[str, str] = {}
        self.expired: set[str] = set()
        self.ended: dict[str, str] = {}

    @rule(name=st.sampled_from(["red", "blue"]))
    def start(self, name: str) -> None:
        answer = self.desks[name].follows(name, 20, max_frames=5)
        if answer["type"] == "track_busy":
            assert len(self.of) >= MOST_RUNNING
            return
        assert (answer["type"], answer["value"]["total_frames"]) == ("track_started", 5)
        session = answer["value"]["session_id"]
        assert session not in {*self.of, *self.ended}
        self.of[session], self.frames[session] = name, []

    @precondition(lambda self: self.of)
    @rule(data=st.data())
    def poll(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(list(self.of)))
        name, seen = self.of[session], self.frames[session]
        value = self.desks[name].sends(event="track_progress", session_id=session)["value"]
        if session in self.expired and "no such session" in (value["error"] or ""):
            self.ended[session] = self.of.pop(session)  # it was done and old, and others came
            return
        for frame in value["frames"]:
            seen.append(frame["frame"])
            shown, there = foreground(frame["imageDataURL"]), square(name, frame["frame"])
            assert (shown & there).sum() > 0.85 * (shown | there).sum(), "a frame of another session"
        assert seen == list(range(20, 20 + len(seen)))
        assert value["produced"] == len(seen)
        assert value["error"] is None or (session in self.expired and "given up" in value["error"])
        assert not value["done"] or value["error"] or len(seen) == 5

    @precondition(lambda self: self.of)
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        """Nobody asked about it for long: if it is not done yet, it ends."""
        session = data.draw(st.sampled_from(list(self.of)))
        run = self.parts.service.events._runs.find(session)  # type: ignore[attr-defined]
        if run is not None:
            run.asked_at -= 1000.0
        self.expired.add(session)

    @precondition(lambda self: self.of)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(list(self.of)))
        name = self.of.pop(session)
        self.ended[session] = name
        assert self.desks[name].sends(event="track_cancel", session_id=session)["type"] == "track_cancel_ack"

    @rule(name=st.sampled_from(["red", "blue"]))
    def release(self, name: str) -> None:
        """Ends what this annotator began, and nothing of the other's."""
        assert self.desks[name].sends(event="release")["type"] == "release_ack"
        for session in [each for each, owner in self.of.items() if owner == name]:
            self.ended[session] = self.of.pop(session)

    @precondition(lambda self: self.ended)
    @rule(data=st.data())
    def ask_late(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(list(self.ended)))
        value = self.desks[self.ended[session]].sends(event="track_progress", session_id=session)["value"]
        assert (value["frames"], value["done"]) == ([], True)
        assert "no such session" in value["error"]

    @precondition(lambda self: len(self.of) < 2)
    @rule()
    def crowd(self) -> None:
        """While the device is held no session comes on, and one too many is told to wait."""
        with self.parts.engine.segmenter()._device:
            answers = [self.desks["red"].follows("red", 20, max_frames=5) for _ in range(MOST_RUNNING + 1)]
        assert answers[-1]["type"] == "track_busy"
        self.ended |= {each["value"]["session_id"]: "red" for each in answers if each["type"] == "track_started"}
        self.release("red")

    def teardown(self) -> None:
        for desk in self.desks.values():
            desk.sends(event="release")


@pytest.mark.slow
def test_whatever_is_done_to_sessions_each_gives_its_own_frames_once_and_in_order(
    page: Page, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.serving.protocol.GATHER_S", 0.01)
    Sessions.page, Sessions.parts = page, parts
    run_state_machine_as_test(Sessions, settings=settings(max_examples=5, stateful_step_count=10, deadline=None))


def test_a_session_that_nobody_polls_ends(page: Page, monkeypatch: pytest.MonkeyPatch, parts: Parts) -> None:
    monkeypatch.setattr("backend.serving.runs.ABANDONED_S", 0.05)
    with parts.engine.segmenter()._device:
        session = page.follows("red", 0)["value"]["session_id"]
        time.sleep(0.2)

    deadline = time.monotonic() + 10
    while any(thread.name == f"film {session[:8]}" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert parts.service.events._runs.find(session).produced < COUNT  # type: ignore[attr-defined]
