from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backend.demo import supervised_process as child_module
from backend.demo.supervised_process import Child, Program

pytestmark = pytest.mark.slow
SLEEPER = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
PATIENT = f"{SLEEPER}; time.sleep(60)"
DEAF_CHILD = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
WITH_A_DEAF_CHILD = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {DEAF_CHILD!r}]); time.sleep(60)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {PATIENT}"


def python(code: str, log: Path) -> Program:
    return Program("a program", [sys.executable, "-c", code], {"COLOUR": "red"}, log)


def members(group: int) -> list[int]:
    """The living processes of a process group, by the kernel's account."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of_group = stat.read_text().rsplit(")", 1)[1].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(of_group) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


def wait_for(group: int, count: int) -> None:
    until = time.monotonic() + 30
    while len(members(group)) != count:
        assert time.monotonic() < until, members(group)
        time.sleep(0.05)


def test_what_a_program_says_and_how_it_ends_is_known(tmp_path: Path) -> None:
    child = Child(python("import os; print('one'); print(os.environ['COLOUR']); raise SystemExit(3)", tmp_path / "log"))
    while child.exit_code() is None:
        time.sleep(0.05)
    assert child.exit_code() == 3
    assert child.last_words(1) == "red"
    child.stop()


def test_stopping_ends_the_program_and_what_it_started(tmp_path: Path) -> None:
    child = Child(python(PATIENT, tmp_path / "log"))
    wait_for(child.pid, 3)
    child.stop()
    assert members(child.pid) == []


def test_stopping_ends_what_a_program_started_and_could_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "TERM_PATIENCE_S", 0.5)
    child = Child(python(WITH_A_DEAF_CHILD, tmp_path / "log"))
    while "deaf" not in child.last_words():
        time.sleep(0.05)
    child.stop()
    wait_for(child.pid, 0)


@pytest.mark.parametrize("code", [PATIENT, DEAF], ids=["polite", "deaf to SIGTERM"])
def test_a_program_ends_when_its_parent_is_killed(code: str, tmp_path: Path) -> None:
    parent = (
        "import sys, time; from pathlib import Path; from backend.demo.supervised_process import Child, Program\n"
        f"child = Child(Program('x', [sys.executable, '-c', {code!r}], {{}}, Path({str(tmp_path / 'log')!r})))\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as out:
        group = int(out.readline())
    wait_for(group, 3)
    process.kill()
    process.wait()
    wait_for(group, 0)


def test_the_leash_can_be_told_to_end_as_well(tmp_path: Path) -> None:
    child = Child(python(PATIENT, tmp_path / "log"))
    wait_for(child.pid, 3)
    os.kill(child.pid, signal.SIGTERM)
    wait_for(child.pid, 0)
    child.stop()


def test_processes_outside_its_group_are_left_alone(tmp_path: Path) -> None:
    other = Child(python(PATIENT, tmp_path / "other"))
    child = Child(python(PATIENT, tmp_path / "log"))
    wait_for(other.pid, 3)
    wait_for(child.pid, 3)
    child.stop()
    assert len(members(other.pid)) == 3
    other.stop()
