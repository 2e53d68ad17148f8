"""Why torchvision_compat exists: beside a torch of another build, importing torchvision fails, and open_clip with it.

A CPU torch with a CUDA torchvision is what ``pip install torch torchvision`` leaves on many machines, and "operator
torchvision::nms does not exist" is one of the most common reports of users of open_clip and transformers.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed"),
]
PROGRAM = """
import sys
sys.path[:0] = {path!r}
{prepare}
import torchvision
print("imported")
"""


def run(prepare: str) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(path=sys.path, prepare=prepare)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)


def test_torchvision_imports_after_the_declaration_whatever_its_build() -> None:
    done = run("from prompts.encoders import declare_missing_operators; declare_missing_operators()")
    assert done.stdout.strip() == "imported", done.stderr


def test_the_declaration_is_made_only_where_it_is_needed() -> None:
    fails_by_itself = "operator torchvision::nms does not exist" in run("").stderr
    declared = run("from prompts.encoders import declare_missing_operators as d; print(d() is not None)")
    assert declared.stdout.split() == [str(fails_by_itself), "imported"], declared.stderr
