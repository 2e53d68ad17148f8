"""SEEM's language encoder and its tokenizer; its vectors are compared with recorded ones in tests/backend/engines/seem."""

from __future__ import annotations

import pytest
import torch

from prompts.encoders.seem import END_OF_TEXT, LanguageEncoder, LanguageSizes, SeemTextEncoder, clip_tokenizer

pytest.importorskip("ftfy", reason="open_clip is not installed")


@pytest.fixture(scope="module")
def encoder() -> LanguageEncoder:
    torch.manual_seed(0)
    network = LanguageEncoder(LanguageSizes(32, 2, 2)).eval().requires_grad_(False)
    torch.nn.init.orthogonal_(network.lang_proj)
    return network


@pytest.fixture(scope="module")
def text(encoder: LanguageEncoder) -> SeemTextEncoder:
    return SeemTextEncoder(encoder, clip_tokenizer())


def test_phrases_become_the_token_ids_of_clip() -> None:
    ids = clip_tokenizer()(["a dog"])
    assert ids.shape == (1, 77)
    assert ids[0, :4].tolist() == [49406, 320, 1929, END_OF_TEXT]


def test_a_long_phrase_is_cut_to_what_the_network_reads() -> None:
    ids = clip_tokenizer()(["dog " * 200])
    assert ids.shape == (1, 77)
    assert ids[0, -1] == END_OF_TEXT


def test_each_phrase_owns_its_tokens_only(text: SeemTextEncoder) -> None:
    read = text.read(["a dog", "a dog on the left"])
    assert read.lengths.tolist() == [4, 7]
    assert read.of(0).shape == (4, 32)
    torch.testing.assert_close(read.sentence[0], read.of(0)[-1])


def test_a_phrase_means_the_same_beside_a_longer_one(text: SeemTextEncoder) -> None:
    alone, beside = text.encode_text(["a dog"]), text.encode_text(["a dog", "the small dog on the far left of the sofa"])
    torch.testing.assert_close(alone[0], beside[0])
    torch.testing.assert_close(alone.norm(dim=-1), torch.ones(1))


def test_words_in_another_order_mean_something_else(text: SeemTextEncoder) -> None:
    one, other = text.encode_text(["dog bites man", "man bites dog"])
    assert not torch.allclose(one, other, atol=1e-3)


def test_what_was_read_lately_is_not_computed_again(encoder: LanguageEncoder) -> None:
    runs: list[object] = []
    handle = encoder.register_forward_hook(lambda *_: runs.append(None))
    text = SeemTextEncoder(encoder, clip_tokenizer())
    for _ in range(3):
        text.read(["a dog"])
    handle.remove()
    assert len(runs) == 1
