"""Prompts that the page sends apart and that belong together."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from backend.labelstudio.request.request import InteractionRequest
from backend.labelstudio.shapes.marks import BoxMark
from backend.serving.interact import MOST_JOINED, join, notes_of
from tests.backend.labelstudio.captured import box, only_task, point, prompted, text
from tests.backend.labelstudio.request.test_examples import accepted

SMART_ONLY = """<View><Image name="image" value="$image"/><TextArea name="prompt" toName="image"/>
    <RectangleLabels name="rect" toName="image" smartOnly="true"><Label value="Cat"/><Label value="Dog"/></RectangleLabels>
    <KeyPointLabels name="kp" toName="image"><Label value="Cat"/><Label value="Dog"/></KeyPointLabels>
    <BrushLabels name="brush" toName="image"><Label value="Cat"/><Label value="Dog"/></BrushLabels></View>"""
BOTH = SMART_ONLY.replace(' smartOnly="true"', "")

BOX = box(10, 10, 40, 40, id="box")
INSIDE, OUTSIDE = point(20, 20, id="in"), point(80, 80, id="out")


def draft(*regions: dict[str, Any], at: float) -> list[dict[str, Any]]:
    return [{"user": "ann@example.com", "updated_at": datetime.fromtimestamp(at, UTC).isoformat(), "result": list(regions)}]


def ask(
    *items: dict[str, Any], config: str = SMART_ONLY, regions: tuple[dict[str, Any], ...] = (), age: float = 60
) -> InteractionRequest:
    """A request while the draft, saved so many seconds ago, holds these regions."""
    return only_task(prompted(*items, config=config, drafts=draft(*regions, at=time.time() - age)))


def kinds(task: InteractionRequest) -> list[str]:
    return ["box" if isinstance(mark, BoxMark) else "click" if mark.positive else "click against" for mark in task.marks]


def after(*earlier: InteractionRequest, then: InteractionRequest) -> InteractionRequest:
    """A request after others of the same session."""
    notes: list[Any] = []
    for task in earlier:
        notes = notes_of(join(task, notes), notes)
    return join(then, notes)


def test_a_click_inside_a_box_refines_it_at_once() -> None:
    assert kinds(after(ask(BOX), then=ask(INSIDE))) == ["box", "click"]


def test_a_click_against_refines_the_box_wherever_it_is() -> None:
    assert kinds(after(ask(BOX), then=ask({**OUTSIDE, "is_positive": False}))) == ["box", "click against"]


def test_a_click_elsewhere_is_another_object() -> None:
    assert kinds(after(ask(BOX), then=ask(OUTSIDE))) == ["click"]


def test_a_box_takes_the_clicks_inside_it() -> None:
    assert kinds(after(ask(INSIDE, OUTSIDE), then=ask(BOX))) == ["click", "box"]


def test_a_third_prompt_keeps_both() -> None:
    second = ask(INSIDE)
    third = ask(INSIDE, {**point(30, 30, id="minus"), "is_positive": False})
    assert kinds(after(ask(BOX), second, then=third)) == ["box", "click", "click against"]


def test_a_box_that_a_later_draft_does_not_hold_is_gone() -> None:
    assert kinds(after(ask(BOX), then=ask(INSIDE, regions=(INSIDE,), age=-1))) == ["click"]
    assert kinds(after(ask(BOX), then=ask(INSIDE, regions=(BOX,), age=-1))) == ["box", "click"]


def test_a_deleted_click_is_gone_at_once_as_the_page_sends_all_clicks_of_a_label() -> None:
    first = ask(point(30, 30, id="deleted"))
    assert kinds(after(first, then=ask(INSIDE, regions=(point(30, 30, id="deleted"),)))) == ["click"]


def test_a_box_from_before_an_accepted_suggestion_is_done_with() -> None:
    request = ask(INSIDE, regions=(BOX, accepted()), age=-1)
    assert kinds(join(request, [])) == ["click"]
    assert kinds(join(ask(INSIDE, regions=(accepted(), BOX), age=-1), [])) == ["box", "click"]


def test_another_label_s_prompts_stay_out() -> None:
    dog = {**BOX, "value": {**BOX["value"], "rectanglelabels": ["Dog"]}}
    assert kinds(after(ask(dog), then=ask(INSIDE))) == ["click"]


def test_prompts_on_another_page_stay_out() -> None:
    config = SMART_ONLY.replace('value="$image"', 'valueList="$image"')
    pages = {"config": config, "data": {"image": ["0.png", "1.png"]}}
    first, second = (only_task(prompted({**item, "item_index": page}, **pages)) for item, page in ((BOX, 0), (INSIDE, 1)))
    assert kinds(after(first, then=second)) == ["click"]


def test_an_old_prompt_is_not_believed_to_stand_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = notes_of(ask(BOX), [])
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 500)
    assert kinds(join(ask(INSIDE, age=1000), notes)) == ["box", "click"]
    unseen = only_task(prompted(INSIDE, config=SMART_ONLY, drafts=[]))
    assert kinds(join(unseen, notes)) == ["click"]
    monkeypatch.setattr(time, "time", lambda: now + 700)
    assert kinds(join(ask(INSIDE, age=1000), notes)) == ["click"]


def test_a_text_goes_with_what_the_draft_still_holds_and_takes_its_label() -> None:
    task = join(ask(text("wheel"), regions=(INSIDE,)), [])
    assert (kinds(task), task.armed_label, [each.phrase for each in task.typed.texts]) == (["click"], "Cat", ["wheel"])
    assert kinds(after(ask(INSIDE), then=ask(text("wheel")))) == []


def test_a_click_with_the_label_against_joins_the_clicks_for() -> None:
    config = SMART_ONLY.replace('name="kp" toName="image">', 'name="kp" toName="image"><Label value="no" maskloom="against"/>')
    against = point(25, 25, label="no", id="no")
    task = after(ask(INSIDE, config=config), then=ask(against, config=config))
    assert (kinds(task), task.armed_label, len(task.regions)) == (["click"], "Cat", 1)


def test_an_outline_of_another_label_stays_out_and_without_a_click_it_names_the_object() -> None:
    config = SMART_ONLY.replace(
        "</View>",
        """<PolygonLabels name="outline" toName="image" maskloom="for"><Label value="Cat"/>
        <Label value="Dog"/></PolygonLabels></View>""",
    )
    value = {"points": [[10, 10], [60, 10], [10, 90]], "polygonlabels": ["Dog"]}
    dog = {"id": "o", "type": "polygonlabels", "from_name": "outline", "to_name": "image", "value": value}
    clicked, said = (join(ask(item, config=config, regions=(dog,)), []) for item in (INSIDE, text("this")))
    assert (len(clicked.regions), clicked.armed_label) == (0, "Cat")
    assert (len(said.regions), said.armed_label) == (1, "Dog")


def test_a_second_smart_box_keeps_the_first_although_a_draft_holds_it() -> None:
    """Nothing in a request tells a smart rectangle from an ordinary one; but the first was sent as the prompt before."""
    first, second = box(10, 10, 10, 10, id="a"), box(50, 50, 10, 10, id="b")
    later = ask(first, second, config=BOTH, regions=(first, second))
    assert kinds(later) == ["box"]
    assert kinds(after(ask(first, config=BOTH), then=later)) == ["box", "box"]
    assert kinds(after(ask(box(1, 1, 5, 5, id="c"), config=BOTH), then=later)) == ["box"]


def test_examples_are_left_as_they_are() -> None:
    task = ask(text("like this"), regions=(INSIDE,))
    assert join(task, notes_of(ask(INSIDE), [])) == task


def test_of_very_many_clicks_the_newest_count() -> None:
    clicks = [point(k / 10, 20, id=f"c{k}") for k in range(MOST_JOINED + 10)]
    task = after(ask(box(0, 10, 90, 40, id="box")), then=ask(*clicks))
    assert len(task.marks) == MOST_JOINED
    assert [mark.id for mark in task.marks] == [click["id"] for click in clicks[-MOST_JOINED:]]
    assert len(notes_of(task, [])) == MOST_JOINED


def test_of_very_many_scribbles_the_newest_count() -> None:
    config = SMART_ONLY.replace(
        'name="brush" toName="image">', 'name="brush" toName="image"><Label value="no" maskloom="against"/>'
    )
    shape = {"format": "rle", "touches": [], "brushlabels": ["no"]}
    strokes = [
        {"id": f"s{k}", "type": "brushlabels", "from_name": "brush", "to_name": "image", "value": {**shape, "k": k}}
        for k in range(MOST_JOINED + 5)
    ]
    task = join(ask(INSIDE, config=config, regions=tuple(strokes)), [])
    assert [mark.id for mark in task.regions] == [f"s{k}" for k in range(5, MOST_JOINED + 5)]
