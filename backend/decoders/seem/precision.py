"""In which floating-point type SEEM computes: bfloat16 where the processor multiplies it natively, float32 elsewhere."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Precision:
    """The type of matrix products and convolutions; everything else, and all that is kept, is float32."""

    dtype: torch.dtype

    def on(self, device: torch.device) -> AbstractContextManager[object]:
        """A context in which PyTorch computes in this type on a device."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16)


def best_precision(device: torch.device) -> Precision:
    """bfloat16 on a GPU that has it and on a processor with AVX512-BF16 or AMX; emulated bfloat16 would be slower."""
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else _processor_has_bfloat16()
    return Precision(torch.bfloat16 if native else torch.float32)


def _processor_has_bfloat16() -> bool:
    features = torch.cpu.get_capabilities()
    return any(features.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
