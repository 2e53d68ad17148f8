from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from backend.engines.colour import ColourTextEncoder, embed_colours

channel = st.floats(0, 1, width=32)


@given(st.tuples(channel, channel, channel))
def test_every_colour_is_a_unit_vector(rgb: tuple[float, float, float]) -> None:
    assert torch.isclose(embed_colours(torch.tensor(rgb)).norm(), torch.tensor(1.0), atol=1e-5)


@given(st.tuples(channel, channel, channel), st.tuples(channel, channel, channel))
def test_no_colour_is_more_like_another_than_like_itself(one: tuple[float, ...], other: tuple[float, ...]) -> None:
    a, b = embed_colours(torch.tensor([one, other]))
    assert a @ b <= a @ a + 1e-5


def test_a_phrase_is_its_colour_words() -> None:
    red, ball, both = ColourTextEncoder().encode_text(["red", "a red ball", "red and blue"])
    assert torch.equal(red, ball)
    assert torch.allclose(red, embed_colours(torch.tensor([1.0, 0.0, 0.0])))
    assert torch.isclose(both @ red, both @ embed_colours(torch.tensor([0.0, 0.0, 1.0])))


def test_a_phrase_without_a_colour_resembles_nothing() -> None:
    (cat,) = ColourTextEncoder().encode_text(["cat"])
    assert cat.tolist() == [0, 0, 0, 0]
