"""Films over HTTP with the colour engine: found by name, followed from drawn boxes, corrected, and refused in sentences."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from fastapi.testclient import TestClient

from backend.app import create_app
from backend.assemble import assemble
from backend.caches import Bounds
from backend.serving.runs import Run, Runs
from backend.values.settings import Settings
from backend.video.film import open_film
from backend.video.keyframes import Box, overlap
from prompts.geometry import BoolArray
from prompts.kinds import Image
from tests.backend.video.films import Recipe, write_film
from tests.backend.video.test_keyframes import player_shows

RED, BLUE, GREY = (220, 30, 30), (30, 40, 220), (128, 128, 128)
COUNT, HEIGHT, WIDTH, SIDE = 36, 64, 160, 16
CONFIG = (
    '<View><Video name="video" value="$video" frameRate="24"/><VideoRectangle name="box" toName="video"/>'
    '<Labels name="labels" toName="video"><Label value="red"/><Label value="blue"/></Labels>'
    '<TextArea name="ask" toName="video"/></View>'
)
HIDDEN = range(14, 18)


def places(number: int) -> dict[str, tuple[int, int]]:
    """Where the squares are: red goes right and is hidden for a while, blue comes on frame 12 and goes left."""
    red = {} if number in HIDDEN else {"red": (4 * number, 4)}
    return {**red, **({"blue": (150 - 3 * number, 40)} if number >= 12 else {})}


def picture(number: int, scale: int = 1) -> Image:
    image = np.full((HEIGHT, WIDTH, 3), GREY, np.uint8)
    for name, (x, y) in places(number).items():
        image[y : y + SIDE, x : x + SIDE] = RED if name == "red" else BLUE
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def square(name: str, number: int) -> BoolArray:
    """The mask of a square on a frame, empty where it is not there."""
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    if name in places(number):
        x, y = places(number)[name]
        mask[y : y + SIDE, x : x + SIDE] = True
    return mask


def truth(name: str, number: int) -> Box | None:
    """The box in percent on a frame of the file."""
    if name not in places(number):
        return None
    x, y = places(number)[name]
    return x / WIDTH * 100, y / HEIGHT * 100, min(x + SIDE, WIDTH) / WIDTH * 100, (y + SIDE) / HEIGHT * 100


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write_film(tmp_path / "film.mkv", [picture(k) for k in range(COUNT)], Recipe(codec="ffv1"))


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    parts = assemble(Settings(engine="colour", home=tmp_path / "home", local_roots=str(tmp_path)))
    with TestClient(create_app(parts)) as client:
        yield client


def ask(client: TestClient, film: Path | str, result: Sequence[Mapping[str, Any]] = (), **more: Any) -> dict[str, Any]:
    """One request about a film; with regions or a text an interactive one."""
    body = {
        "project": "7.1",
        "label_config": more.pop("config", CONFIG),
        "tasks": [{"id": 3, "data": {"video": str(film)}, **more}],
        "params": {"context": {"result": list(result)}} if result else None,
    }
    (answer,) = client.post("/predict", json=body).json()["results"]
    return dict(answer)


def drawn(name: str, number: int, label: str | None = None, **value: Any) -> dict[str, Any]:
    """A box that the annotator drew around an object on a frame of the file, as the page sends it."""
    box = truth(name, number)
    assert box is not None
    item = {"frame": number + 1, "enabled": True, "rotation": 0, "time": (number + 1) / 24, **as_item(box)}
    return region("drawn", [item], label or name)


def as_item(box: Box) -> dict[str, float]:
    return {"x": box[0], "y": box[1], "width": box[2] - box[0], "height": box[3] - box[1]}


def region(name: str, sequence: Sequence[Mapping[str, Any]], label: str) -> dict[str, Any]:
    value = {"framesCount": COUNT, "duration": COUNT / 24, "sequence": list(sequence), "labels": [label]}
    return {"id": name, "from_name": "box", "to_name": "video", "type": "videorectangle", "origin": "manual", "value": value}


def typed(text: str) -> dict[str, Any]:
    return {"id": "t", "from_name": "ask", "to_name": "video", "type": "textarea", "value": {"text": [text]}}


def check_shown(sequence: Sequence[Mapping[str, Any]], name: str, numbers: Sequence[int] = range(COUNT)) -> None:
    """The player shows the object's box on every frame of the file that has it, and on no other."""
    for number in numbers:
        shown, box = player_shows(sequence, number + 1), truth(name, number)
        assert (shown is None) == (box is None), number
        if shown is not None and box is not None:
            assert overlap(shown, box) > 0.8, number


def test_label_names_find_every_appearance_as_one_track_over_a_gap(client: TestClient, film: Path) -> None:
    answer = ask(client, film)

    found = {each["value"]["labels"][0]: each for each in answer["result"]}
    assert sorted(found) == ["blue", "red"]
    assert len({each["id"] for each in answer["result"]}) == len(answer["result"]) == 2
    for name, each in found.items():
        assert (each["from_name"], each["to_name"], each["type"]) == ("box", "video", "videorectangle")
        assert each["value"]["framesCount"] == COUNT
        check_shown(each["value"]["sequence"], name)
    assert answer["score"] > 0.5


def test_a_drawn_box_is_followed_both_ways_and_keeps_its_id_and_what_was_drawn(client: TestClient, film: Path) -> None:
    box = drawn("red", 6)

    (answered,) = ask(client, film, [box])["result"]

    sequence = answered["value"]["sequence"]
    assert answered["id"] == "drawn"
    assert answered["value"]["labels"] == ["red"]
    assert len(sequence) < COUNT // 3
    assert box["value"]["sequence"][0] in sequence
    check_shown(sequence, "red")


@pytest.mark.slow
def test_a_correction_follows_the_rest_anew_and_leaves_what_came_before_to_the_letter(client: TestClient, film: Path) -> None:
    """From frame 21 on the annotator says that it is the blue one: the page changes or sets one keyframe and nothing else."""
    (first,) = ask(client, film, [drawn("red", 0)])["result"]
    before = first["value"]["sequence"]
    box = truth("blue", 21)
    assert box is not None
    later = next((k for k, item in enumerate(before) if item["frame"] >= 22), len(before))
    changed = {**(before[later] if later < len(before) else {}), **as_item(box), "frame": 22, "enabled": True, "rotation": 0}
    sequence = [*before[:later], changed, *before[later:]]

    (mended,) = ask(client, film, [region("drawn", sequence, "red")])["result"]

    after = mended["value"]["sequence"]
    check_shown(after, "blue", range(21, COUNT))
    assert [item for item in after if item["frame"] <= 14] == [item for item in before if item["frame"] <= 14]
    check_shown(after, "red", range(14))


@pytest.mark.slow
def test_tracks_that_nobody_touched_and_that_the_page_sends_along_are_left_alone(client: TestClient, film: Path) -> None:
    found = {each["value"]["labels"][0]: each for each in ask(client, film)["result"]}

    answered = ask(client, film, [found["blue"], drawn("red", 0)])["result"]

    assert [each["id"] for each in answered] == ["drawn"]
    assert ask(client, film, [found["blue"]])["result"] == []


def test_a_film_that_takes_long_is_followed_on_when_the_annotator_asks_again(
    tmp_path: Path, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work stands still after its tenth step until the annotator asks again."""
    parts = assemble(Settings(engine="colour", home=tmp_path / "home", local_roots=str(tmp_path)))
    asked_again, step, wait = threading.Event(), Run.step, Run.wait

    def step_or_stand_still(run: Run[Any]) -> None:
        step(run)
        assert run.steps < 10 or asked_again.wait(60)

    def wait_for_ten_steps(run: Run[Any], seconds: float) -> bool:
        while run.steps < 10:
            assert not wait(run, 0.01)
        return False

    monkeypatch.setattr(Run, "step", step_or_stand_still)
    with TestClient(create_app(parts)) as client:
        monkeypatch.setattr(Run, "wait", wait_for_ten_steps)
        first, told = ask(client, film, [drawn("blue", 12)])["result"]
        monkeypatch.setattr(Run, "wait", wait)
        asked_again.set()
        (second,) = ask(client, film, [{**first, "type": "videorectangle"}])["result"]

    assert "ask again to go on" in told["value"]["text"][0]
    assert player_shows(first["value"]["sequence"], COUNT) is None
    check_shown(second["value"]["sequence"], "blue")


def test_what_was_found_is_kept_while_there_is_room_and_the_newest_in_any_case() -> None:
    runs: Runs[bytes] = Runs(Bounds(100, len))

    def found(key: str, size: int) -> Run[bytes]:
        run = runs.join(key, lambda run: iter([bytes(size)]))
        assert run.wait(10)
        return run

    kept = [found("a", 40), found("b", 40), found("c", 40)]
    again = found("c", 1)

    assert again is kept[2]
    assert [runs.find(key) is not None for key in "abc"] == [False, True, True]
    assert found("d", 500).parts == [bytes(500)]
    assert len(found("d", 1).parts[0]) == 500
    assert [runs.find(key) is not None for key in "abcd"] == [False, False, False, True]


def test_typing_follow_follows_the_boxes_of_the_draft(client: TestClient, film: Path) -> None:
    drafts = [{"id": 1, "user": "a@b.c", "updated_at": "2026-11-20T10:00:00Z", "result": [drawn("blue", 20)]}]

    (answered,) = ask(client, film, [typed("follow")], drafts=drafts)["result"]

    assert answered["id"] == "drawn"
    check_shown(answered["value"]["sequence"], "blue")


def test_a_typed_phrase_finds_its_appearances(client: TestClient, film: Path) -> None:
    (answered,) = ask(client, film, [typed("blue")])["result"]

    assert answered["value"]["labels"] == ["blue"]
    check_shown(answered["value"]["sequence"], "blue")


def test_timeline_labels_tell_where_a_name_is_present(client: TestClient, film: Path) -> None:
    config = (
        '<View><Video name="video" value="$video"/><TimelineLabels name="when" toName="video">'
        '<Label value="red"/><Label value="blue"/></TimelineLabels></View>'
    )

    result = ask(client, film, config=config)["result"]

    spans = {(each["value"]["timelinelabels"][0], *each["value"]["ranges"][0].values()) for each in result}
    assert spans == {("red", 1, 14), ("red", 19, COUNT), ("blue", 13, COUNT)}
    assert {(each["from_name"], each["type"]) for each in result} == {("when", "timelinelabels")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            '<View><Video name="v" value="$video"/><Choices name="c" toName="v"><Choice value="a"/></Choices></View>',
            "<Choices>",
        ),
        ('<View><Video name="v" value="$video"/><VideoRectangle name="b" toName="v"/></View>', "no label for the video"),
        ('<View><Video name="v" value="$film"/><TimelineLabels name="t" toName="v"/></View>', "no video address"),
        (CONFIG.replace('"red"', '"green"').replace('"blue"', '"yellow"'), "none of green, yellow is found"),
    ],
)
def test_what_cannot_be_answered_is_a_sentence_and_no_prediction(
    client: TestClient, film: Path, config: str, sentence: str
) -> None:
    answer = ask(client, film, config=config)

    assert "result" not in answer
    assert sentence in answer["error"]


def test_a_film_that_cannot_be_had_or_read_is_a_sentence(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_bytes(b"this is no film")

    assert (
        "there is no" in ask(client, tmp_path / "gone.mp4")["error"]
        or "cannot be read" in ask(client, tmp_path / "gone.mp4")["error"]
    )
    assert "it is no video" in ask(client, tmp_path / "no.mp4")["error"]
    (note,) = ask(client, tmp_path / "no.mp4", [typed("red")])["result"]
    assert "it is no video" in note["value"]["text"][0]
    assert (note["from_name"], note["type"]) == ("ask", "textarea")


def broken_off(path: Path) -> Path:
    """A film that was not copied to its end."""
    whole = Recipe(options=(("movflags", "faststart"),), keyframe_every=4)
    write_film(path, [picture(k) for k in range(COUNT)], whole)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 8 // 10])
    return path


def damaged(path: Path, number: int) -> Path:
    """A film of which one frame is zeros."""
    whole = Recipe(options=(("movflags", "faststart"),), keyframe_every=4)
    write_film(path, [picture(k) for k in range(COUNT)], whole)
    with av.open(str(path)) as container:
        where, size = [(p.pos, p.size) for p in container.demux(video=0) if p.size][number]
    body = bytearray(path.read_bytes())
    body[where : where + size] = bytes(size)
    path.write_bytes(body)
    return path


def test_of_a_film_that_breaks_off_what_is_there_is_answered(client: TestClient, tmp_path: Path) -> None:
    path = broken_off(tmp_path / "short.mp4")
    length = len(open_film(path))

    found = {each["value"]["labels"][0]: each["value"] for each in ask(client, path)["result"]}

    assert 20 < length < COUNT
    assert {each["framesCount"] for each in found.values()} == {length}
    for name, each in found.items():
        check_shown(each["sequence"], name, range(length))


def test_what_was_followed_before_a_damaged_frame_is_not_lost(client: TestClient, tmp_path: Path) -> None:
    followed, told = ask(client, damaged(tmp_path / "bad.mp4", 30), [drawn("blue", 14)])["result"]

    assert "then: " in told["value"]["text"][0]
    assert "frame 30 of 36 cannot be decoded" in told["value"]["text"][0]
    check_shown(followed["value"]["sequence"], "blue", range(14, 30))


def test_a_turned_box_and_an_empty_one_are_told_to_the_annotator(client: TestClient, film: Path) -> None:
    turned = drawn("red", 3)
    turned["value"]["sequence"][0]["rotation"] = 30
    outside = drawn("red", 3)
    outside["value"]["sequence"][0].update(x=150, width=10)

    assert "cannot be followed" in str(ask(client, film, [turned])["result"])
    assert "covers no pixel" in str(ask(client, film, [outside])["result"])
