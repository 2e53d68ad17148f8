"""The command line: the only place that prints."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from backend import __version__
from backend.errors import MaskloomError, SetupError
from backend.settings import Settings

cli = typer.Typer(no_args_is_help=True, add_completion=False, help="Labelled masks from words, clicks, boxes and examples.")
console = Console(stderr=True)


def main() -> None:
    """The command ``maskloom``; errors of Maskloom become one line and exit code 1."""
    try:
        cli()
    except MaskloomError as error:
        console.print(f"[red]maskloom:[/] {error}", highlight=False)
        raise SystemExit(1) from error


@cli.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 9090,
) -> None:
    """Start the server that Label Studio talks to."""
    import uvicorn

    from backend.app import create_app
    from backend.assemble import assemble

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    parts = assemble(Settings())
    _check_port(host, port)
    console.print(
        f"Maskloom {__version__}, engine {parts.engine.version}, on http://{host}:{port} (API at /docs)", highlight=False
    )
    uvicorn.run(create_app(parts, prewarm=True), host=host, port=port, log_level="warning")


@cli.command()
def segment(
    photo: Annotated[Path, typer.Argument(help="An image file.")],
    text: Annotated[list[str] | None, typer.Option(help='What to find: "cat, dog, not the toy".')] = None,
    point: Annotated[list[str] | None, typer.Option(help="A click x,y in pixels.")] = None,
    negative_point: Annotated[list[str] | None, typer.Option(help="A click x,y on what does not belong.")] = None,
    box: Annotated[list[str] | None, typer.Option(help="A box x0,y0,x1,y1 in pixels.")] = None,
    polygon: Annotated[list[str] | None, typer.Option(help="A rough outline x,y,x,y,...")] = None,
    mask: Annotated[Path | None, typer.Option(help="A mask image of the object to refine.")] = None,
    reference: Annotated[Path | None, typer.Option(help="Another image that shows such a thing ...")] = None,
    reference_mask: Annotated[Path | None, typer.Option(help="... and a mask image of where.")] = None,
    out: Annotated[Path, typer.Option(help="The picture with the masks over it.")] = Path("masks.png"),
    json: Annotated[Path | None, typer.Option(help="The masks as COCO RLE with labels and scores.")] = None,
) -> None:
    """Segment one photo and write the masks, without Label Studio."""
    from backend.assemble import EngineHandle, image_files
    from backend.photo import PhotoPrompts, segment_photo
    from backend.registry import find_engine

    settings = Settings()
    prompts = PhotoPrompts(
        texts=tuple(text or ()),
        points=tuple(point or ()),
        negative_points=tuple(negative_point or ()),
        boxes=tuple(box or ()),
        polygons=tuple(polygon or ()),
        mask=mask,
        reference=reference,
        reference_mask=reference_mask,
    )
    segmenter = EngineHandle(find_engine(settings.engine), settings).segmenter()
    answer = segment_photo(photo, prompts, image_files(settings), segmenter)
    answer.write_overlay(out)
    if json is not None:
        answer.write_json(json)
    for region in answer.masks:
        print(f"{region.label or 'object'}  score {region.score:.2f}  {int(region.mask.sum())} pixels")
    if not len(answer.masks):
        print("nothing found")
    console.print(f"wrote {out}" + (f" and {json}" if json else ""), highlight=False)


@cli.command()
def demo(
    images: Annotated[Path | None, typer.Option(help="A folder of photos; by default those that scikit-image ships.")] = None,
    labels: Annotated[str, typer.Option(help='Label names: "cat, cup, person".')] = "",
    port: Annotated[int, typer.Option(help="Port for Label Studio.")] = 8080,
    backend_port: Annotated[int, typer.Option(help="Port for Maskloom.")] = 9090,
    home: Annotated[Path, typer.Option(help="Folder for all that is made; it can be deleted.")] = Path(".maskloom"),
) -> None:
    """Open a Label Studio with photos that already carry labelled masks, and stay until Ctrl-C."""
    from backend.demo import DEFAULT_LABELS, DemoOptions, run

    names = tuple(dict.fromkeys(filter(None, map(str.strip, labels.split(","))))) or DEFAULT_LABELS
    run(DemoOptions(home=home, images=images, labels=names, port=port, backend_port=backend_port), console)


@cli.command()
def parts() -> None:
    """List the engines."""
    from backend.registry import ENGINES

    table = Table("engine", "what it is", "licence")
    for preset in ENGINES.values():
        table.add_row(preset.name, preset.summary, preset.licence)
    Console().print(table)


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SetupError(f"cannot listen on {host}:{port} ({error.strerror}); choose another port with --port") from error
