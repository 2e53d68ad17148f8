"""Words that edit masks, typed into the text prompt: over HTTP with the colour engine, and their set algebra."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backend.labelstudio.request.typed import Edit, Verb
from backend.labelstudio.shapes import SHAPES as TABLE
from backend.labelstudio.shapes import mask_of
from backend.serving.editing import MOST_PARTS, Piece, Pieces, apply
from backend.values.masks import Masks, Region, RunLengths
from backend.values.morphology import fill_holes, grow, shrink
from prompts.geometry import Size
from tests.backend.annotator import CONFIG, HEIGHT, SHAPES, WIDTH, Annotator, click, found, head, typed

LEFT, RIGHT, BLUE = (SHAPES[name][0] for name in ("left", "right", "blue"))
SIZE = Size(HEIGHT, WIDTH)


def say(ann: Annotator, *lines: str, name: str = "", config: str = CONFIG) -> list[dict[str, Any]]:
    """Type lines into one text prompt; every prompt is a new one unless it has a name."""
    ann.said = getattr(ann, "said", 0) + 1  # type: ignore[attr-defined]
    item = {**typed(lines[0]), "id": name or f"t{ann.said}"}  # type: ignore[attr-defined]
    return ann.ask({**item, "value": {"text": list(lines)}}, config=config)


def masks(regions: list[dict[str, Any]]) -> list[np.ndarray]:
    return [mask_of(region, SIZE) for region in regions]


def same(found: list[np.ndarray], *truth: np.ndarray) -> bool:
    return sorted(mask.tobytes() for mask in found) == sorted(mask.tobytes() for mask in truth)


def brush(name: str, label: str, mask: np.ndarray) -> dict[str, Any]:
    return {
        **head("brushlabels", "brush", name),
        "value": {**TABLE["brush"].write(RunLengths.of(mask))[0].value, "brushlabels": [label]},
    }


def test_what_is_shown_is_edited_step_by_step_and_undone(ann: Annotator) -> None:
    assert len(say(ann, "red")) == 2
    assert same(masks(say(ann, "grow 2")), grow(LEFT, 2), grow(RIGHT, 2))
    assert same(masks(say(ann, "join")), grow(LEFT, 2) | grow(RIGHT, 2))
    assert same(masks(say(ann, "largest part")), grow(LEFT, 2))
    assert same(masks(say(ann, "undo")), grow(LEFT, 2) | grow(RIGHT, 2))
    assert same(masks(say(ann, "undo, undo")), LEFT, RIGHT)


def test_phrases_and_edits_of_one_line_are_one_answer_and_the_same_prompt_gets_the_same_again(ann: Annotator) -> None:
    for _ in range(2):
        assert same(masks(say(ann, "red, shrink 3", name="one")), shrink(LEFT, 3), shrink(RIGHT, 3))
    say(ann, "red")
    for _ in range(3):
        assert same(masks(say(ann, "grow 2", name="two")), grow(LEFT, 2), grow(RIGHT, 2))
    assert same(masks(say(ann, "grow 2", "fill holes", name="two")), grow(LEFT, 2), grow(RIGHT, 2))


def test_a_click_is_edited_too_and_its_label_stays(ann: Annotator) -> None:
    ann.ask(click(35, 45))
    (region,) = say(ann, "grow 1")
    assert region["value"]["brushlabels"] == ["Ball"]
    assert same(masks([region]), grow(LEFT, 1))


def test_more_finds_what_resembles_it_and_fewer_keeps_the_better_half(ann: Annotator) -> None:
    ann.ask(click(35, 45))
    assert found(say(ann, "more")) == [("Ball", "left"), ("Ball", "right")]
    assert len(say(ann, "fewer")) == 1


def test_what_was_drawn_is_edited_in_its_place_under_its_own_id(ann: Annotator) -> None:
    ann.drawn = [brush("mine", "Ball", LEFT), brush("other", "Box", BLUE)]
    (region,) = say(ann, "shrink 2 of ball")
    assert (region["id"], region["value"]["brushlabels"]) == ("mine", ["Ball"])
    assert same(masks([region]), shrink(LEFT, 2))
    (region,) = say(ann, "grow 4")
    assert region["id"] == "mine", "what is shown goes first"


def test_without_a_label_the_newest_regions_label_is_meant_and_cut_leaves_the_others(ann: Annotator) -> None:
    overlapping = BLUE.copy()
    overlapping[:40] = False
    overlapping[30:60, 100:125] = True
    ann.drawn = [brush("other", "Ball", BLUE), brush("mine", "Box", overlapping)]
    (region,) = say(ann, "cut")
    assert region["id"] == "mine"
    assert same(masks([region]), overlapping & ~BLUE)


def test_an_accepted_suggestion_is_a_region_that_is_drawn(ann: Annotator) -> None:
    (suggested,) = ann.ask(click(35, 45))
    ann.drawn = [suggested]
    (region,) = say(ann, "grow 2")
    assert region["id"] == suggested["id"]
    assert same(masks([region]), grow(LEFT, 2))


def test_points_make_a_polygon_of_no_more_than_so_many(ann: Annotator) -> None:
    config = CONFIG.replace(
        "</View>", '<PolygonLabels name="outline" toName="image"><Label value="Ball"/></PolygonLabels></View>'
    )
    ann.ask(click(35, 45), config=config)
    (region,) = say(ann, "12 points", config=config)
    assert region["type"] == "polygonlabels"
    assert 6 <= len(region["value"]["points"]) <= 12
    (mask,) = masks([region])
    assert (mask & LEFT).sum() / (mask | LEFT).sum() > 0.9


def test_points_are_given_to_vectors_where_no_polygons_are_drawn_and_refused_in_words_where_neither_is(ann: Annotator) -> None:
    config = CONFIG.replace("</View>", '<VectorLabels name="v" toName="image"><Label value="Ball"/></VectorLabels></View>')
    ann.ask(click(35, 45), config=config)
    (region,) = say(ann, "12 points", config=config)
    assert region["type"] == "vectorlabels"
    assert len(region["value"]["vertices"]) <= 12
    (message,) = say(ann, "12 points")
    assert "no <PolygonLabels> or <VectorLabels>" in message["value"]["text"][0]
    (region,) = say(ann, "grow 1")
    assert same(masks([region]), grow(LEFT, 1)), "what has no points goes on to be edited"


def test_what_is_almost_an_edit_is_told_and_not_searched_for(ann: Annotator) -> None:
    say(ann, "red")
    for line in ("grow 501", "> 1.5", "2 points", "grow 2 of saucer", "red, shrink 0"):
        (message,) = say(ann, line)
        assert "cannot be read as an edit: pixels go from 1 to 500" in message["value"]["text"][0]
    assert len(say(ann, "grow 501", "grow 2")) == 2, "the next line is what counts"


def test_a_region_of_very_many_parts_is_split_into_a_bounded_number_without_losing_a_pixel() -> None:
    specks = np.zeros((60, 60), np.bool_)
    specks[::3, ::3] = True
    parts = edited(pieces(specks), Edit(Verb.SPLIT))
    assert len(parts) == MOST_PARTS + 1
    assert np.array_equal(np.sum(parts, axis=0), specks.astype(int))


def test_where_there_is_nothing_to_edit_or_nothing_is_left_the_page_says_so(ann: Annotator) -> None:
    (message,) = say(ann, "grow 2")
    assert "nothing is shown or drawn here" in message["value"]["text"][0]
    say(ann, "red")
    (message,) = say(ann, "shrink 400")
    assert "nothing is left after shrink 400" in message["value"]["text"][0]
    assert len(say(ann, "undo")) == 2


def test_a_phrase_that_finds_nothing_is_told_in_a_sentence(ann: Annotator) -> None:
    (message,) = say(ann, "yellow")
    assert message["value"]["text"] == ['⚠ nothing found for "yellow" on this image']


def pieces(*drawn: np.ndarray, scores: tuple[float, ...] = (), labels: tuple[str, ...] = ()) -> Pieces:
    rows = [
        Region(RunLengths.of(mask), scores[row] if scores else 0.5, labels[row] if labels else "a")
        for row, mask in enumerate(drawn)
    ]
    return tuple(map(Piece, rows))


def edited(before: Pieces, *edits: Edit, others: tuple[np.ndarray, ...] = ()) -> list[np.ndarray]:
    size = before[0].region.runs.size
    after = apply(before, edits, lambda: Masks.of(others, size), lambda _: [])
    return [piece.region.mask for piece in after]


PAIR = st.tuples(*[arrays(np.bool_, (9, 11))] * 3).filter(lambda three: three[0].any() and three[1].any())


@given(PAIR)
def test_join_is_the_union_split_the_parts_and_cut_the_difference(drawn: tuple[np.ndarray, ...]) -> None:
    one, two, other = drawn
    both = pieces(one, two, scores=(0.9, 0.4))
    assert same(edited(both, Edit(Verb.JOIN)), one | two)
    parts = edited(both[:1], Edit(Verb.SPLIT))
    assert np.array_equal(np.sum(parts, axis=0), one.astype(int))
    cut = edited(both, Edit(Verb.CUT), others=(other,))
    expected = [mask for mask in (one & ~other, two & ~other & ~one) if mask.any()]
    assert same(cut, *expected)


def test_a_thing_on_a_giant_image_is_edited_in_its_box_and_written_as_every_shape_of_a_path() -> None:
    """Of 30,000 x 30,000 pixels a mask takes 900 MB, and the distances in it 3.6 GB."""
    giant, hollow = Size(30_000, 30_000), BLUE & ~shrink(BLUE, 6)
    runs, other = (RunLengths.placed(mask, (29_000, 12_000), giant) for mask in (hollow, RIGHT))
    before = (Piece(Region(runs, 0.5, "a")), Piece(Region(other, 0.4, "a")))
    every = [Edit(verb, 3) for verb in (Verb.GROW, Verb.FILL, Verb.SMOOTH, Verb.SHRINK, Verb.CUT, Verb.JOIN, Verb.SPLIT)]
    tracemalloc.start()
    after = apply(before, [*every, Edit(Verb.LARGEST)], lambda: Masks(giant, (other,)), lambda _: [])
    written = [shape.write(after[0].region.runs) for name, shape in TABLE.items() if name in ("polygon", "vector", "ellipse")]
    assert tracemalloc.get_traced_memory()[1] < 100 << 20
    tracemalloc.stop()
    (place, window) = after[0].region.runs.window()
    assert (
        BLUE[place[0].start - 12_000 : place[0].stop - 12_000, place[1].start - 29_000 : place[1].stop - 29_000] == window
    ).all()
    assert all(float(value.note.split()[-1]) > 0.95 for (value,) in written if value.note)


@pytest.mark.slow
@given(PAIR)
def test_edits_that_should_be_idempotent_are(drawn: tuple[np.ndarray, ...]) -> None:
    before = pieces(*drawn[:2], scores=(0.9, 0.4))
    for verb in (Verb.FILL, Verb.JOIN, Verb.SPLIT, Verb.CUT, Verb.LARGEST, Verb.UNDO):
        once = edited(before, Edit(verb))
        assert same(edited(before, Edit(verb), Edit(verb)), *once), verb
    above = Edit(Verb.ABOVE, 0.5)
    assert same(edited(before, above), drawn[0])
    assert same(edited(before, above, above), drawn[0])


@given(PAIR)
def test_edits_follow_each_other_as_functions_do(drawn: tuple[np.ndarray, ...]) -> None:
    one = pieces(drawn[0])
    assert same(edited(one, Edit(Verb.GROW, 2), Edit(Verb.FILL)), fill_holes(grow(drawn[0], 2)))


def test_an_edit_of_one_label_leaves_the_others() -> None:
    both = pieces(LEFT, BLUE, labels=("ball", "box"))
    assert same(edited(both, Edit(Verb.GROW, 2, "ball")), grow(LEFT, 2), BLUE)


def test_the_page_that_was_not_used_for_longest_is_forgotten(
    client: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.serving.editing.MOST_PAGES", 2)
    people = [Annotator(client, folder / "a.png", number) for number in (1, 2, 3)]
    for each in people:
        say(each, "red")
    (message,) = say(people[0], "grow 2")
    assert "nothing is shown" in message["value"]["text"][0]
    assert len(say(people[2], "grow 2")) == 2
