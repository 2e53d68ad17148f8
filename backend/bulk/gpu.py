"""How busy the GPU is, as its driver says."""

from __future__ import annotations

import shutil
import subprocess
import time

ASKED_EVERY_S = 5.0
_QUERY = ("--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits")


class GpuWatch:
    """Asks ``nvidia-smi`` now and then; says nothing where there is none."""

    def __init__(self) -> None:
        self._program = shutil.which("nvidia-smi")
        self._asked_at = float("-inf")
        self._told = ""

    def __call__(self) -> str:
        """For example ``GPU 87 % 4.1 GiB``, one for each GPU; empty without a GPU."""
        if self._program and time.monotonic() - self._asked_at > ASKED_EVERY_S:
            self._asked_at = time.monotonic()
            self._told = self._ask(self._program)
        return self._told

    def _ask(self, program: str) -> str:
        try:
            done = subprocess.run([program, *_QUERY], capture_output=True, text=True, timeout=3, check=True)
        except (OSError, subprocess.SubprocessError):
            return ""
        return read_gpus(done.stdout)


def read_gpus(lines: str) -> str:
    """The lines ``utilization, MiB`` of all GPUs in words; a line that cannot be read is left out."""
    told = []
    for line in lines.splitlines():
        busy, _, used = line.partition(",")
        if busy.strip().isdecimal() and used.strip().isdecimal():
            told.append(f"GPU {int(busy)} % {int(used) / 1024:.1f} GiB")
    return ", ".join(told)
