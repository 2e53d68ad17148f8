"""``maskloom video``: what a film's frames are, without Label Studio and without an engine."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from backend.cli.terminal import say
from backend.values.errors import RequestError

video = typer.Typer(no_args_is_help=True, help="Films: whether their frames are Label Studio's, and pictures of them.")

FilmFile = Annotated[Path, typer.Argument(help="A video file.")]
Rate = Annotated[str | None, typer.Option(help="The attribute frameRate of the config's Video tag; without it 24.")]
_T = TypeVar("_T")


class Which(StrEnum):
    """Which frames of a region count as annotated."""

    keyframes = "keyframes"
    all = "all"


@video.command("check")
def check(film: FilmFile, frame_rate: Rate = None) -> None:
    """Say what is off between a film and a config, and which frameRate to set; exit code 1 when frames are."""
    from backend.video.check import check_film
    from backend.video.film import open_film
    from backend.video.timeline import as_attribute

    opened, rate = open_film(film), read_rate(frame_rate)
    facts, timeline = opened.facts, opened.timeline
    print(
        f"{film}: {len(opened)} frames of {facts.size.width} x {facts.size.height}, {facts.codec}, "
        f"{timeline.duration:.3f} s, {float(timeline.rate):.6g} frames per second"
    )
    findings = check_film(opened, rate)
    for finding in findings:
        print(f"{finding.kind}: {finding.text}")
    if any(finding.kind == "wrong" for finding in findings):
        raise typer.Exit(1)
    print(f'frameRate="{as_attribute(rate)}" is right')


@video.command("frames")
def frames(
    film: FilmFile,
    out: Annotated[Path, typer.Option(help="The folder for the pictures.")] = Path("frames"),
    export: Annotated[Path | None, typer.Option(help="A JSON export of Label Studio: its annotated frames.")] = None,
    task: Annotated[str | None, typer.Option(help="The task of this film in the export.")] = None,
    which: Annotated[Which, typer.Option(help="Frames that somebody set, or all that a region is on.")] = Which.keyframes,
    numbers: Annotated[str | None, typer.Option(help="Label Studio's frames instead: 1,5,10-20.")] = None,
    frame_rate: Rate = None,
) -> None:
    """Write exactly the frames that annotations are about, as PNG."""
    from backend.video.annotated import annotated_numbers, write_frames
    from backend.video.film import open_film
    from backend.video.timeline import numbers_in

    if (export is None) == (numbers is None):
        raise RequestError("say which frames: --export with a JSON export of Label Studio, or --numbers 1,5,10-20")
    chosen = _read(numbers_in, numbers) if numbers else annotated_numbers(export or Path(), task, which.value)
    paths = write_frames(open_film(film), chosen, read_rate(frame_rate), out)
    say(f"wrote {len(paths)} frames to {out}")


def read_rate(text: str | None) -> Fraction:
    """The option ``--frame-rate``. Raises RequestError."""
    from backend.video.timeline import parse_frame_rate

    return _read(parse_frame_rate, text)


def _read(parse: Callable[[str | None], _T] | Callable[[str], _T], text: str | None) -> _T:
    try:
        return parse(text)  # type: ignore[arg-type]
    except ValueError as error:
        raise RequestError(str(error)) from error
