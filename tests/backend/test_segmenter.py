"""The one path, over the colour engine, whose right answers are known."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from backend.engines import colour
from backend.engines.base import MaskDecoder
from backend.segmenter import Segmenter
from backend.values.errors import MaskloomError, RequestError
from backend.values.features import Batching, FeatureCache, ImageFeatures
from backend.values.masks import MaskSet
from backend.values.session import ForNames, ForPrompts, Question, Round
from prompts.geometry import Size
from prompts.kinds import (
    BoxPrompt,
    Image,
    KeyedImage,
    MaskPrompt,
    ObjectMemory,
    PointPrompt,
    PolygonPrompt,
    Prompt,
    PromptError,
    PromptSet,
    ReferencePrompt,
    ScribblePrompt,
    TextPrompt,
)
from prompts.phrases import LabelPhrases, Vocabulary
from tests.backend.pictures import BLUE, RED, Picture, disc, paint, square, two_red_discs, two_shapes


@pytest.fixture
def segmenter() -> Segmenter:
    return Segmenter(colour.build(None), FeatureCache(1 << 26))


def ask(
    segmenter: Segmenter, picture: Picture, *prompts: Prompt, vocabulary: Vocabulary | None = None, armed: str | None = None
) -> Round:
    question = ForPrompts(KeyedImage.of(picture.image), PromptSet(prompts), vocabulary or Vocabulary(), armed)
    return answer(segmenter, question)


def answer(segmenter: Segmenter, question: Question) -> Round:
    (done,) = segmenter.segment([question])
    assert isinstance(done, Round), done
    return done


def test_a_click_finds_the_shape_under_it(segmenter: Segmenter) -> None:
    picture = two_shapes()
    done = ask(segmenter, picture, PointPrompt((30, 40)))
    assert len(done.masks) == 1
    assert np.array_equal(done.masks.masks[0], picture.shapes["red disc"])


class Repeating:
    """The colour decoder, which offers everything twice when a click may mean several things."""

    def __init__(self, decoder: MaskDecoder) -> None:
        self._decoder = decoder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def decode_alternatives(self, features: ImageFeatures, prompts: PromptSet) -> MaskSet:
        found = self._decoder.decode_alternatives(features, prompts)  # type: ignore[attr-defined]
        return found[[row for row in range(len(found)) for _ in range(2)]]


def test_what_a_click_may_mean_is_offered_once_though_the_engine_finds_it_twice() -> None:
    engine, picture = colour.build(None), two_red_discs()
    repeating = Segmenter(replace(engine, decoder=Repeating(engine.decoder)), FeatureCache(1 << 26))
    (done,) = repeating.segment([ForPrompts(KeyedImage.of(picture.image), PromptSet((PointPrompt((90, 40)),)), alternatives=3)])
    assert isinstance(done, Round)
    small, both = picture.shapes["small"], picture.shapes["large"] | picture.shapes["small"]
    assert sorted(done.masks.masks.areas.tolist()) == [small.sum(), both.sum()]


def test_clicks_on_two_shapes_make_one_object_of_both(segmenter: Segmenter) -> None:
    picture = two_shapes()
    done = ask(segmenter, picture, PointPrompt((30, 40)), PointPrompt((80, 30)))
    assert np.array_equal(done.masks.masks[0], picture.shapes["red disc"] | picture.shapes["blue square"])


def test_a_negative_click_takes_the_shape_under_it_away(segmenter: Segmenter) -> None:
    picture = two_shapes()
    done = ask(segmenter, picture, PointPrompt((30, 40)), PointPrompt((80, 30)), PointPrompt((85, 35), positive=False))
    assert np.array_equal(done.masks.masks[0], picture.shapes["red disc"])


def test_a_box_keeps_to_what_lies_inside_it(segmenter: Segmenter) -> None:
    picture = two_shapes()
    done = ask(segmenter, picture, BoxPrompt((70, 20, 110, 60)))
    assert np.array_equal(done.masks.masks[0], picture.shapes["blue square"])


def test_two_boxes_are_two_objects(segmenter: Segmenter) -> None:
    picture = two_shapes()
    done = ask(segmenter, picture, BoxPrompt((10, 20, 50, 60)), BoxPrompt((70, 20, 110, 60)), armed="shape")
    assert [np.array_equal(m, t) for m, t in zip(done.masks.masks, picture.shapes.values(), strict=True)] == [True, True]
    assert done.masks.labels == ("shape", "shape")


def test_a_scribble_a_polygon_and_a_mask_find_the_shape_that_they_touch(segmenter: Segmenter) -> None:
    picture = two_shapes()
    blue = picture.shapes["blue square"]
    scribble = np.zeros_like(blue)
    scribble[30:32, 80:95] = True
    for prompt in (
        ScribblePrompt(scribble),
        PolygonPrompt(np.array([[80.0, 30], [100, 30], [100, 50], [80, 50]])),
        MaskPrompt(square(80, 120, 85, 35, 10)),
    ):
        assert np.array_equal(ask(segmenter, picture, prompt).masks.masks[0], blue), prompt


def test_words_find_every_instance_and_name_it(segmenter: Segmenter) -> None:
    picture = two_red_discs()
    done = ask(segmenter, picture, TextPrompt("red disc"))
    assert sorted(int(mask.sum()) for mask in done.masks.masks) == sorted(
        int(picture.shapes[n].sum()) for n in ("small", "large")
    )
    assert done.masks.labels == ("red disc", "red disc")


def test_an_absent_thing_gives_no_mask(segmenter: Segmenter) -> None:
    assert len(ask(segmenter, two_shapes(), TextPrompt("green leaf")).masks) == 0


def test_words_without_a_colour_mean_nothing_to_the_colour_engine(segmenter: Segmenter) -> None:
    assert len(ask(segmenter, two_shapes(), TextPrompt("cat")).masks) == 0


def test_a_negative_phrase_is_a_veto(segmenter: Segmenter) -> None:
    picture = paint({"red": (disc(60, 120, 30, 30, 15), RED), "dark": (disc(60, 120, 85, 30, 15), (139, 0, 0))})
    both = ask(segmenter, picture, TextPrompt("red"))
    assert len(both.masks) == 2
    one = ask(segmenter, picture, TextPrompt("red"), TextPrompt("darkred", positive=False))
    assert len(one.masks) == 1
    assert np.array_equal(one.masks.masks[0], picture.shapes["red"])


def test_a_region_of_another_image_finds_its_like(segmenter: Segmenter) -> None:
    there, here = two_shapes(), two_red_discs()
    done = ask(segmenter, here, ReferencePrompt(KeyedImage.of(there.image), there.shapes["blue square"]))
    assert len(done.masks) == 1
    assert np.array_equal(done.masks.masks[0], here.shapes["blue square"])


def test_without_prompts_the_vocabulary_is_the_prompt_and_aliases_answer_under_their_label(segmenter: Segmenter) -> None:
    picture = two_shapes()
    vocabulary = Vocabulary(
        (LabelPhrases.of("Ball", ["red"]), LabelPhrases.of("Box", ["blue"]), LabelPhrases.of("Leaf", ["green"]))
    )
    done = answer(segmenter, ForNames(KeyedImage.of(picture.image), vocabulary))
    found = dict(zip(done.masks.labels, done.masks.masks, strict=True))
    assert set(found) == {"Ball", "Box"}
    assert np.array_equal(found["Ball"], picture.shapes["red disc"])
    assert np.array_equal(found["Box"], picture.shapes["blue square"])


def test_two_labels_for_one_region_leave_one_mask(segmenter: Segmenter) -> None:
    vocabulary = Vocabulary((LabelPhrases.of("Ball", ["red"]), LabelPhrases.of("Sun", ["darkred"])))
    done = answer(segmenter, ForNames(KeyedImage.of(two_shapes().image), vocabulary))
    assert done.masks.labels == ("Ball",)


def test_the_armed_label_wins(segmenter: Segmenter) -> None:
    vocabulary = Vocabulary((LabelPhrases.of("Ball", ["red"]), LabelPhrases.of("Box", ["blue"])))
    assert ask(segmenter, two_shapes(), PointPrompt((30, 40)), vocabulary=vocabulary, armed="Box").masks.labels == ("Box",)


def test_a_click_without_an_armed_label_is_named_by_the_joint_space(segmenter: Segmenter) -> None:
    vocabulary = Vocabulary((LabelPhrases.of("Ball", ["red"]), LabelPhrases.of("Box", ["blue"])))
    assert ask(segmenter, two_shapes(), PointPrompt((90, 40)), vocabulary=vocabulary).masks.labels == ("Box",)


def test_memory_of_the_last_round_stays_in_the_answer(segmenter: Segmenter) -> None:
    picture = two_shapes()
    first = ask(segmenter, picture, PointPrompt((30, 40)))
    memory = ObjectMemory(first.masks.low_res_logits[0], segmenter.engine.version)
    (second,) = segmenter.segment(
        [ForPrompts(KeyedImage.of(picture.image), PromptSet((PointPrompt((80, 30)),)), memory=memory)]
    )
    assert isinstance(second, Round)
    assert np.array_equal(second.masks.masks[0], picture.shapes["red disc"] | picture.shapes["blue square"])


def test_memory_is_of_the_object_that_is_drawn_on_it(segmenter: Segmenter) -> None:
    picture = two_shapes()
    boxes = (BoxPrompt((0, 0, 5, 5)), BoxPrompt((10, 20, 50, 60)))
    first = ask(segmenter, picture, boxes[1])
    memory = ObjectMemory(first.masks.low_res_logits[0], segmenter.engine.version)
    prompts = PromptSet((*boxes, PointPrompt((80, 30))))
    (done,) = segmenter.segment([ForPrompts(KeyedImage.of(picture.image), prompts, memory=memory)])
    assert isinstance(done, Round)
    _, disc_again, square_alone = done.masks.masks
    assert np.array_equal(disc_again, picture.shapes["red disc"])
    assert np.array_equal(square_alone, picture.shapes["blue square"])


def test_a_negative_click_beside_a_word_takes_the_instance_under_it_away(segmenter: Segmenter) -> None:
    picture = two_red_discs()
    y, x = np.argwhere(picture.shapes["large"]).mean(axis=0)
    done = ask(segmenter, picture, TextPrompt("red"), PointPrompt((x, y), positive=False))
    assert [np.array_equal(mask, picture.shapes["small"]) for mask in done.masks.masks] == [True]


def test_memory_of_another_engine_is_not_read(segmenter: Segmenter) -> None:
    picture = two_shapes()
    memory = ObjectMemory(np.ones((80, 120), np.float16), "another engine")
    (done,) = segmenter.segment([ForPrompts(KeyedImage.of(picture.image), PromptSet((PointPrompt((80, 30)),)), memory=memory)])
    assert isinstance(done, Round)
    assert np.array_equal(done.masks.masks[0], picture.shapes["blue square"])


def test_the_second_prompt_on_an_image_does_not_encode_it_again() -> None:
    cache = FeatureCache(1 << 26)
    segmenter = Segmenter(colour.build(None), cache)
    picture = two_shapes()
    ask(segmenter, picture, PointPrompt((30, 40)))
    assert cache.encoded == 1
    ask(segmenter, picture, PointPrompt((30, 40)), PointPrompt((80, 30)))
    ask(segmenter, picture, TextPrompt("blue"))
    assert cache.encoded == 1


def test_a_batch_is_encoded_once_even_where_the_cache_has_no_room_for_it() -> None:
    cache = FeatureCache(1)
    segmenter = Segmenter(colour.build(None), cache)
    vocabulary = Vocabulary((LabelPhrases.of("red"), LabelPhrases.of("blue")))
    images = [np.roll(two_shapes().image, shift, axis=1) for shift in range(4)]
    rounds = segmenter.segment([ForNames(KeyedImage.of(image), vocabulary) for image in images])
    assert [len(done.masks) for done in rounds if isinstance(done, Round)] == [2] * 4
    assert cache.encoded == 4


def test_an_image_of_a_batch_that_also_shows_an_example_is_not_encoded_again() -> None:
    """It was, once for each of its questions, when the cache had no room: all or none were taken from the batch."""
    cache = FeatureCache(1)
    segmenter = Segmenter(colour.build(None), cache)
    there, here = two_shapes(), two_red_discs()
    example = ReferencePrompt(KeyedImage.of(there.image), there.shapes["blue square"])
    text = PromptSet((TextPrompt("red"),))
    questions = [
        ForPrompts(KeyedImage.of(here.image), PromptSet((example,))),
        ForPrompts(KeyedImage.of(two_red_discs().image[:, ::-1].copy()), text),
    ]
    rounds = segmenter.segment(questions)
    assert [len(done.masks) for done in rounds if isinstance(done, Round)] == [1, 2]
    assert cache.encoded == 3


def test_a_question_that_cannot_be_answered_costs_only_itself(segmenter: Segmenter) -> None:
    picture = two_shapes()
    good = ForPrompts(KeyedImage.of(picture.image), PromptSet((PointPrompt((30, 40)),)))
    bad = ForPrompts(KeyedImage.of(picture.image), PromptSet((PointPrompt((3000, 40)),)))
    first, second, third = segmenter.segment([good, bad, good])
    assert isinstance(first, Round)
    assert isinstance(third, Round)
    assert isinstance(second, RequestError)
    assert "outside the image of 120 x 80" in str(second)


def test_an_engine_that_breaks_costs_only_the_question(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        raise ZeroDivisionError("no")

    monkeypatch.setattr(segmenter.engine.decoder, "decode", explode)
    (answer,) = segmenter.segment([ForPrompts(KeyedImage.of(two_shapes().image), PromptSet((TextPrompt("red"),)))])
    assert isinstance(answer, MaskloomError)
    assert "ZeroDivisionError" in str(answer)


@pytest.mark.slow
def test_eight_threads_on_sixteen_images_get_no_answer_for_the_wrong_image() -> None:
    """Predictors that hold "the current image" mix up their users; here 800 answers are compared with their truths."""
    segmenter = Segmenter(colour.build(None), FeatureCache(120 * 80 * 16 * 5))
    pictures = [paint({"it": (square(80, 120, 5 + 6 * k, 3 + 3 * k, 12 + k), BLUE if k % 2 else RED)}) for k in range(16)]
    wrong: list[int] = []

    def annotate(thread: int) -> None:
        rng = np.random.default_rng(thread)
        for k in rng.integers(0, 16, 100).tolist():
            done = ask(segmenter, pictures[k], PointPrompt((11 + 6 * k, 9 + 3 * k)))
            if not np.array_equal(done.masks.masks[0], pictures[k].shapes["it"]):
                wrong.append(k)

    threads = [threading.Thread(target=annotate, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_empty_vocabulary_names_nothing_and_the_image_is_not_even_encoded(segmenter: Segmenter) -> None:
    done = answer(segmenter, ForNames(KeyedImage.of(two_shapes().image), Vocabulary()))
    assert (len(done.masks), done.masks.size) == (0, Size(80, 120))
    assert segmenter.encode_s == math.inf


def test_a_question_for_prompts_without_a_prompt_is_refused() -> None:
    with pytest.raises(PromptError, match="expected at least one prompt, got none"):
        ForPrompts(KeyedImage.of(two_shapes().image), PromptSet())


class Breaking:
    """The colour engine's decoder, which breaks down at images with a black corner and counts what it is given."""

    def __init__(self) -> None:
        self._decoder = colour.build(None).decoder
        self.given: list[tuple[int, ...]] = []

    def encode_images(self, images: Sequence[Image]) -> list[ImageFeatures]:
        self.given += [tuple(image[0, 0].tolist()) for image in images]
        if (0, 0, 0) in self.given[-len(images) :]:
            raise RuntimeError("a black corner")
        return self._decoder.encode_images(images)

    def decode(self, *asked: Any) -> MaskSet:
        return self._decoder.decode(*asked)


@pytest.mark.parametrize(("together", "times"), [(1, 1), (8, 2)])
def test_an_image_that_breaks_the_engine_costs_its_own_question_and_no_other_image_is_encoded_again(
    together: int, times: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Images that are encoded together have to be tried apart once; the cache has no room for any of them."""
    decoder = Breaking()
    engine = replace(colour.build(None), decoder=decoder)
    corners = [(255, 255, 255), (0, 0, 0), (250, 250, 250), (255, 255, 240)]
    questions = [ForNames(KeyedImage.of(with_corner(corner)), Vocabulary.from_names(["red"])) for corner in corners]
    answers = Segmenter(engine, FeatureCache(1), Batching(together)).segment(questions)
    assert [isinstance(done, Round) for done in answers] == [True, False, True, True]
    assert "a black corner" in str(answers[1])
    assert sorted(decoder.given) == sorted(corners * times)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def with_corner(colour: tuple[int, int, int]) -> Image:
    image = two_shapes().image.copy()
    image[0, 0] = colour
    return image


def test_questions_for_no_name_encode_nothing_beside_others_either(segmenter: Segmenter) -> None:
    image = KeyedImage.of(two_shapes().image)
    done = segmenter.segment([ForNames(image, Vocabulary()) for _ in range(2)])
    assert [len(each.masks) for each in done if isinstance(each, Round)] == [0, 0]
    assert segmenter.encode_s == math.inf
