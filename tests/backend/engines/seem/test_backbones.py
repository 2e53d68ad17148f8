"""SAM's ViT: heads that wait for each other to save memory answer as they do together."""

from __future__ import annotations

import pytest
import torch

from backend.engines.seem import backbones as sam_vit


def test_heads_one_after_the_other_answer_as_together(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    attention = sam_vit.Attention(32, 4, 6).eval().requires_grad_(False)
    for position in (attention.rel_pos_h, attention.rel_pos_w):
        torch.nn.init.normal_(position)
    x = torch.randn(2, 6, 6, 32)
    together = attention(x)
    monkeypatch.setattr(sam_vit, "MOST_BIASES", 1)
    torch.testing.assert_close(attention(x), together, rtol=1e-4, atol=1e-5)
