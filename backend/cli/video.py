"""``maskloom video`` and ``maskloom track``: what a film's frames are, and objects followed through it without Label Studio."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from backend.cli.segment import PhotoPrompts
from backend.cli.terminal import read_settings, say, say_progress, settings_with_engine
from backend.values.errors import MaskloomError, RequestError
from prompts.geometry import BoolArray, box_mask, size_of
from prompts.kinds import BoxPrompt, Image, KeyedImage, MaskPrompt, PromptSet

if TYPE_CHECKING:
    from backend.segmenter import Segmenter
    from backend.video.following import Mark

video = typer.Typer(no_args_is_help=True, help="Films: whether their frames are Label Studio's, and pictures of them.")

FilmFile = Annotated[Path, typer.Argument(help="A video file.")]
Rate = Annotated[str | None, typer.Option(help="The attribute frameRate of the config's Video tag; without it 24.")]
_T = TypeVar("_T")


class Which(StrEnum):
    """Which frames of a region count as annotated."""

    keyframes = "keyframes"
    all = "all"


class Format(StrEnum):
    """The formats of masks that ``maskloom track`` writes."""

    davis = "davis"
    mots = "mots"
    youtube_vis = "youtube-vis"
    coco = "coco"


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


@video.command("masks")
def masks(
    film: FilmFile,
    export: Annotated[Path, typer.Option(help="A JSON export of Label Studio with the submitted annotation.")],
    task: Annotated[str | None, typer.Option(help="The task of this film in the export.")] = None,
    frame_rate: Rate = None,
    mask_format: Annotated[list[Format] | None, typer.Option("--format", help="How the masks are written: davis.")] = None,
    out: Annotated[Path, typer.Option(help="The folder for the masks.")] = Path("tracks"),
) -> None:
    """Write the masks of submitted boxes and rings: those that are kept beside them, else what the engine finds in a box."""
    from backend.assemble import engine_handle, film_masks
    from backend.export.films import SubmittedFilm, submitted
    from backend.video.exports import FORMATS
    from backend.video.film import open_film

    settings = read_settings()
    beside, handle = film_masks(settings), engine_handle(settings)
    given = SubmittedFilm(open_film(film), submitted(export, task), read_rate(frame_rate))
    tracks = given.tracks(lambda region: beside.get(region) or {}, lambda image, box: _inside(handle.segmenter(), image, box))
    for each in mask_format or [Format.davis]:
        FORMATS[each.value](tracks, out / each.value, film.stem)
    drawn = sum(mask.is_given for track in tracks.tracks for mask in track.masks.values())
    say(f"wrote {len(tracks.tracks)} tracks to {out}; on {drawn} frames a person set them")


@video.command("compare")
def compare(
    truth: Annotated[Path, typer.Argument(help="A folder of DAVIS's pictures: the truth.")],
    found: Annotated[Path, typer.Argument(help="A folder of them with what was found; objects have the same ids.")],
) -> None:
    """Say how close tracks are to the truth: masks and outlines (J and F), and identities (HOTA)."""
    from backend.evaluation.tracks import identities_of, read_davis, regions_of

    true, other = read_davis(truth), read_davis(found)
    regions, identities = regions_of(true, other), identities_of(true, other)
    print(f"{true.length} frames, {len(true.tracks)} objects")
    print(f"J&F {regions.mean:.3f}  J {regions.j:.3f}  F {regions.f:.3f}")
    for number, (j, f) in regions.by_object.items():
        print(f"  object {number}  J {j:.3f}  F {f:.3f}")
    print(
        f"HOTA {identities.hota:.3f}  detection {identities.detection:.3f}  association {identities.association:.3f}  "
        f"identity switches {identities.switches}"
    )


@video.command("corrections")
def corrections(
    film: FilmFile,
    truth: Annotated[Path, typer.Argument(help="A folder of DAVIS's pictures: the truth.")],
    enough: Annotated[float, typer.Option(min=0, max=1, help="The mean IoU over all frames that is good enough.")] = 0.85,
    most: Annotated[int, typer.Option(min=1, help="The most prompts for an object.")] = 20,
) -> None:
    """Say how many prompts a simulated corrector needs: an object's first mask, then clicks on the worst frame."""
    settings = settings_with_engine()
    from backend.assemble import engine_handle
    from backend.evaluation.metrics import Assumptions
    from backend.evaluation.tracks import correct, read_davis
    from backend.video.film import open_film

    opened, true, segmenter = open_film(film), read_davis(truth), engine_handle(settings).segmenter()
    if (true.size, true.length) != (opened.size, len(opened)):
        raise RequestError(f"{truth} has masks of another film: {true.length} frames, {film} has {len(opened)}")
    for track in true.tracks:
        done = correct(opened, segmenter.tracker(lambda: None), track, enough, most)
        reached, saved = ", ".join(f"{j:.3f}" for j in done.reached), done.saved(enough, Assumptions())
        prompts = f"{done.needed(enough)} prompts" if done.reached[-1] >= enough else f"more than {len(done.reached)} prompts"
        print(f"object {track.object_id}: {prompts} to J {enough:g} (J {reached}); {saved:.0%} of the time by hand is saved")


def _inside(segmenter: Segmenter, image: Image, box: tuple[float, float, float, float]) -> BoolArray:
    """The object in a box on a frame; the box itself where the engine finds nothing in it."""
    from backend.values.session import ForPrompts

    (done,) = segmenter.segment([ForPrompts(KeyedImage.of(image), PromptSet((BoxPrompt(box),)))])
    if isinstance(done, MaskloomError) or not len(done.masks):
        return box_mask(box, size_of(image))
    return done.masks.masks[0]


def read_rate(text: str | None) -> Fraction:
    """The option ``--frame-rate``. Raises RequestError."""
    from backend.video.timeline import parse_frame_rate

    return _read(parse_frame_rate, text)


def _read(parse: Callable[[str | None], _T] | Callable[[str], _T], text: str | None) -> _T:
    try:
        return parse(text)  # type: ignore[arg-type]
    except ValueError as error:
        raise RequestError(str(error)) from error


def track(
    film: FilmFile,
    frame: Annotated[int, typer.Option(help="The frame of the file, from 0, on which the prompts lie.")] = 0,
    text: Annotated[list[str] | None, typer.Option(help="What to find on that frame and follow.")] = None,
    point: Annotated[list[str] | None, typer.Option(help="A click x,y in pixels.")] = None,
    negative_point: Annotated[list[str] | None, typer.Option(help="A click x,y on what does not belong.")] = None,
    box: Annotated[list[str] | None, typer.Option(help="A box x0,y0,x1,y1 in pixels; each is an object.")] = None,
    polygon: Annotated[list[str] | None, typer.Option(help="A rough outline x,y,x,y,...")] = None,
    stroke: Annotated[list[str] | None, typer.Option(help="A stroke over the object x,y,x,y,...")] = None,
    mask: Annotated[Path | None, typer.Option(help="A mask image of the object.")] = None,
    reference: Annotated[Path | None, typer.Option(help="Another image that shows such a thing ...")] = None,
    reference_mask: Annotated[Path | None, typer.Option(help="... and a mask image of where.")] = None,
    frames: Annotated[str | None, typer.Option(help="Follow on these frames of the file alone: 0-120.")] = None,
    mask_format: Annotated[list[Format] | None, typer.Option("--format", help="How the masks are written: davis.")] = None,
    out: Annotated[Path, typer.Option(help="The folder for the film with the masks over it, and for the masks.")] = Path(
        "tracks"
    ),
) -> None:
    """Follow objects through a film, without Label Studio, and write a film with the masks over it and the masks."""
    settings = settings_with_engine()
    from backend.assemble import engine_handle, image_files
    from backend.video.exports import FORMATS
    from backend.video.film import open_film
    from backend.video.following import Teller, follow_all
    from backend.video.timeline import numbers_in
    from backend.video.writer import write_overlay

    opened = open_film(film)
    typed = PhotoPrompts(
        texts=tuple(text or ()),
        points=tuple(point or ()),
        negative_points=tuple(negative_point or ()),
        boxes=tuple(box or ()),
        polygons=tuple(polygon or ()),
        strokes=tuple(stroke or ()),
        mask=mask,
        reference=reference,
        reference_mask=reference_mask,
    )
    prompts = typed.read(opened.size, image_files(settings))
    chosen = sorted(_read(numbers_in, frames)) if frames else [0, len(opened) - 1]
    segmenter = engine_handle(settings).segmenter()
    tracker = segmenter.tracker(Teller(film.name, chosen[-1] + 1 - chosen[0]).step)
    say_progress()
    marks, labels = _marks(opened.frame(frame), frame, prompts, segmenter)
    tracks = follow_all(opened, tracker, marks, chosen[0], chosen[-1] + 1).named(labels)
    for each in tracks.tracks:
        print(f"{each.object_id}  {each.label or 'object'}  on {len(each.masks)} of {len(opened)} frames")
    out.mkdir(parents=True, exist_ok=True)
    write_overlay(opened, tracks, out / f"{film.stem}.mp4")
    for each_format in mask_format or [Format.davis]:
        FORMATS[each_format.value](tracks, out / each_format.value, film.stem)
    say(f"wrote {out}")


def _marks(image: Image, frame: int, prompts: PromptSet, segmenter: Segmenter) -> tuple[list[Mark], dict[int, str | None]]:
    """What to follow from one frame: each drawn object as it was drawn, and of phrases every instance that is found there."""
    from backend.values.session import ForPrompts
    from backend.video.following import Mark

    if not prompts.said:
        drawn = list(prompts.objects())
        return [Mark(frame, number, each) for number, each in enumerate(drawn, 1)], {}
    (done,) = segmenter.segment([ForPrompts(KeyedImage.of(image), prompts)])
    if isinstance(done, MaskloomError):
        raise done
    found = list(done.masks)
    if not found:
        raise RequestError(f"nothing of that is on frame {frame}; choose another with --frame")
    marks = [Mark(frame, number, PromptSet((MaskPrompt(region.mask),))) for number, region in enumerate(found, 1)]
    return marks, {number: region.label for number, region in enumerate(found, 1)}
