"""Memory tokens look only where their mask was, and the 32 of them are shared evenly."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backend.engines.seem.sampler import TOKENS, MaskMemory


@given(st.integers(1, TOKENS))
def test_the_tokens_are_shared_as_evenly_as_possible(masks: int) -> None:
    share = torch.bincount(MaskMemory(torch.zeros(masks, 2, 2), torch.arange(masks)).split(), minlength=masks)
    assert int(share.sum()) == TOKENS
    assert int(share.max() - share.min()) <= 1


@pytest.mark.parametrize("size", [(4, 4), (2, 2)])
def test_everything_but_the_mask_is_outside(size: tuple[int, int]) -> None:
    logits = torch.full((2, 4, 4), -3.0)
    logits[0, :2] = 3
    logits[1, :, 2:] = 3
    outside = MaskMemory(logits, torch.arange(2)).outside(size).unflatten(1, size)
    half = size[0] // 2
    assert not outside[:16, :half].any()
    assert outside[:16, half:].all()
    assert not outside[16:, :, half:].any()
    assert outside[16:, :, :half].all()
