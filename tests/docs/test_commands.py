"""Every command of Maskloom that a page tells is one, with options that it has; every target of make is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import typer.main

from backend.cli import cli
from tests.docs.test_links import PAGES, ROOT

FENCED = re.compile(r"```(?:bash|sh)?\n(.*?)```", re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(r"(?:[A-Z_]+=\S* )*(?:\S*/)?maskloom (.+)")
MAKE = re.compile(r"make ((?:[a-z-]+(?: |$))+)")
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def lines_of(page: Path) -> list[str]:
    """The lines of code blocks, those that end in a backslash joined, and what stands in backquotes."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = [line.strip() for block in FENCED.findall(text) for line in block.splitlines()]
    return blocks + INLINE.findall(FENCED.sub("", text))


def strangers(arguments: str) -> list[str]:
    """The words of a command line that no command, or no option of its command, is called."""
    words = shlex.split(arguments, comments=True)
    command: Any = typer.main.get_command(cli)
    while hasattr(command, "list_commands") and words and not words[0].startswith("-"):
        name = words.pop(0)
        found = command.get_command(click.Context(command), name)
        if found is None:
            return [name]
        command = found
    known = {"--help", *(name for each in command.params for name in (*each.opts, *each.secondary_opts))}
    return [word for word in words if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_command_that_a_page_tells_is_one(page: Path) -> None:
    for line in lines_of(page):
        told = COMMAND.fullmatch(line)
        if told and page.name != "CHANGELOG.md":
            assert not strangers(told.group(1)), line
        for targets in MAKE.findall(line) if line.startswith("make ") else []:
            assert set(targets.split()) <= TARGETS, line


def test_a_command_that_is_none_would_be_found() -> None:
    assert len([line for page in PAGES for line in lines_of(page) if COMMAND.fullmatch(line)]) > 80
    assert strangers("serve --host ::1 --prot 9090") == ["--prot"]
    assert strangers("sevre --port 1") == ["sevre"]
    assert strangers("memory freze 3") == ["freze"]
    assert strangers('prelabel photos --labels "cat=kitten|tabby" # a note --with') == []
