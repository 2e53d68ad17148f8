"""The commands around the server: serve, demo, fetch, parts, doctor, and warm, which encodes the images of a project before its
annotators come."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from backend import __version__
from backend.cli.terminal import STOPPED, console, read_settings, say, write_text
from backend.engines.catalogue import ENGINES, Recipe, find_engine, find_refiner
from backend.values.errors import SetupError
from backend.values.settings import Settings

if TYPE_CHECKING:
    from types import FrameType

    from backend.bulk.warm import Warmed

DRAIN_S = 6
"""How long requests that are being answered may take when the server is told to end; Docker kills after ten seconds."""
KEEP_ALIVE_S = 75
"""How long a connection waits for the next request: longer than proxies and clients keep theirs, or they use a closed one."""
SHOWN_FAILURES = 5


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 9090,
) -> None:
    """Start the server that Label Studio talks to."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host  # IPv6 as addresses of the web write it
    settings = _checked(host, port)
    import httpx
    import uvicorn

    from backend.app import create_app
    from backend.assemble import assemble
    from backend.images.sites import is_loopback

    if not is_loopback(httpx.URL(scheme="http", host=host)) and "image_hosts" not in settings.model_fields_set:
        settings = settings.model_copy(update={"image_hosts": ""})
    parts = assemble(settings)
    shown = f"[{host}]" if ":" in host else host
    say(f"Maskloom {__version__}, engine {parts.engine.version}, on http://{shown}:{port} (API at /docs)")
    app = create_app(parts, host=host, port=port, prewarm=True)
    config = uvicorn.Config(
        app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=DRAIN_S, timeout_keep_alive=KEEP_ALIVE_S
    )

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            parts.service.ending.set()
            super().handle_exit(sig, frame)

    Server(config).run()


def _checked(host: str, port: int) -> Settings:
    """The settings, after what can be told to be wrong before the networks are imported: the quickest to tell first. Raises
    SetupError.
    """
    settings = read_settings()
    find_engine(settings.engine)
    if settings.refine:
        find_refiner(settings.refine)
    from backend.doctor.findings import check_port
    from backend.images.sites import Sites
    from backend.stores.database import CLICK_WAIT_S, Database
    from backend.stores.projects import ProjectTable

    check_port(host, port)
    token = settings.label_studio_token
    Sites(settings.label_studio_url, token.get_secret_value() if token else None)
    ProjectTable(Database(settings.database_url, CLICK_WAIT_S))
    return settings


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


def fetch(
    engine: Annotated[str, typer.Argument(help="An engine of published models; `maskloom parts` lists them.")],
    to: Annotated[Path | None, typer.Option(help="Folder of the bundle; by default below MASKLOOM_HOME.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only compare a bundle with its manifest, without a network.")] = False,
    bundle: Annotated[
        Path | None, typer.Option(help="One file to carry over: where it is, it is unpacked and checked; else it is written.")
    ] = None,
    take: Annotated[
        str,
        typer.Option(
            help="kept: the revisions of the last time; newest; commits to stay with, such as decoder=COMMIT,clip=COMMIT; "
            "missing: nobody is asked if nothing is missing."
        ),
    ] = "kept",
) -> None:
    """Get the models of an engine, or go on where that broke off."""
    from backend.engines import download
    from backend.engines.bundle import verify

    settings, recipe = read_settings(), find_engine(engine)
    folder = to or recipe.weights_in(settings.home_folder)
    if take == "missing" and (not recipe.models or folder is None or _is_whole(recipe, folder)):
        return
    if not recipe.models or folder is None:
        raise SetupError(f"the engine {engine!r} has no models to fetch")
    if check:
        if wrong := verify(folder):
            raise SetupError("; ".join(wrong))
        say(f"{folder} is whole")
        return
    if bundle is not None and bundle.is_file():
        download.unpack(bundle, folder)
    else:
        _fetch_from_hub(settings, recipe, folder, take)
        if bundle is not None:
            download.pack(folder, bundle)
    say(f"wrote {folder}; start with MASKLOOM_ENGINE={engine}" + (f" MASKLOOM_WEIGHTS={folder}" if to else ""))


def _is_whole(recipe: Recipe, folder: Path) -> bool:
    """Whether a bundle was fetched to its end and every file is there; looks at no digest."""
    from backend.engines.bundle import MANIFEST, missing_for

    return (folder / MANIFEST).is_file() and missing_for(recipe, folder) is None


def _fetch_from_hub(settings: Settings, recipe: Recipe, folder: Path, take: str) -> None:
    from backend.engines.download import Hub, pins_for
    from backend.engines.download import fetch as fetch_models

    if settings.offline:
        raise SetupError("offline mode is on (MASKLOOM_OFFLINE or HF_HUB_OFFLINE): nothing is fetched")
    say(f"licences: {recipe.licence}")
    token = settings.hub_token.get_secret_value() if settings.hub_token else None
    pins = pins_for(take, recipe, folder)
    if len(pins) < len(recipe.models):
        say("some revisions are not named by this release: these models are taken as they are now, and noted in the manifest")
    fetch_models(recipe, folder, Hub(settings.hub_url, token), say, pins)


def parts() -> None:
    """List the engines."""
    table = Table("engine", "what it is", "memory and time", "licence")
    for recipe in ENGINES.values():
        table.add_row(recipe.name, recipe.summary, recipe.costs, recipe.licence)
    Console().print(table)


MARKS = {"ok": "[green]OK[/]  ", "advice": "[yellow]note[/]", "broken": "[red]DO[/]  "}


def doctor(
    host: Annotated[str, typer.Option(help="Address that the server listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port that the server listens on.")] = 9090,
    load: Annotated[bool, typer.Option("--load/--no-load", help="Load the engine, which takes its time and memory.")] = True,
) -> None:
    """Look at engine, weights, disk, database, Label Studio: each line is OK or says what to do; exit code 1 if one must."""
    from backend.assemble import engine_handle
    from backend.doctor.findings import examine_machine, examine_port
    from backend.doctor.readiness import examine_label_studio

    settings = read_settings()
    engine = engine_handle(settings)
    if load and engine.problem is None:
        engine.try_loading()
    found = [*examine_machine(settings, engine), examine_port(host, port), *examine_label_studio(settings, port)]
    shown = Console(highlight=False, soft_wrap=True)
    for each in found:
        shown.print(f"{MARKS[each.level]} {escape(each.subject)}: {escape(' '.join(each.text.split()))}")
    raise typer.Exit(int(any(each.level == "broken" for each in found)))


def warm(
    project: Annotated[int, typer.Argument(help="The number of a Label Studio project.")],
    view: Annotated[int | None, typer.Option(help="Only the tasks of this Data Manager view.")] = None,
    report: Annotated[Path | None, typer.Option(help="A file for what was done and what failed, as JSON.")] = None,
    url: Annotated[str | None, typer.Option(help="Label Studio's address, or MASKLOOM_LABEL_STUDIO_URL.")] = None,
    token: Annotated[str | None, typer.Option(help="Its token, or MASKLOOM_LABEL_STUDIO_TOKEN.")] = None,
) -> None:
    """Encode every image of a project onto disk, where a server with the same settings finds them; what is there is kept."""
    from backend.assemble import label_studio, warmer
    from backend.bulk.run import Progress
    from backend.cli.bulk import shown, stops_on_ctrl_c

    settings, stop, started = read_settings(url, token), threading.Event(), time.monotonic()
    with label_studio(settings) as studio, stops_on_ctrl_c(stop), shown(str) as watch:

        def told(done: Warmed, tasks: int) -> None:
            failed = len(done.failures)
            watch(Progress(done.tasks, tasks - failed, failed, tasks, 0, time.monotonic() - started))

        worker = replace(warmer(settings, stop), watch=told)
        try:
            done = worker.warm(studio, studio.project(project), view)
        finally:
            worker.images.close()
    if report is not None:
        write_text(report, json.dumps(done.to_json(), indent=1), "--report")
    _tell(done, time.monotonic() - started)
    if stop.is_set():
        say("stopped; the same command goes on from here")
        raise typer.Exit(STOPPED)
    if done.failures:
        raise typer.Exit(1)


def _tell(done: Warmed, seconds: float) -> None:
    say(
        f"{done.encoded:,} images encoded in {seconds:.1f} s, {done.known:,} were there already; "
        f"about {done.image_bytes / 1024:,.0f} KiB each"
    )
    if done.beyond_bound:
        more = math.ceil(done.beyond_bound * done.image_bytes / (1 << 20))
        say(f"{done.beyond_bound:,} images had no room on disk: raise MASKLOOM_FEATURE_SPILL_MIB by {more:,}")
    if done.in_windows:
        say(f"{done.in_windows:,} images are too large to be encoded whole; their windows are, with the first click")
    for task, reason in list(done.failures.items())[:SHOWN_FAILURES]:
        say(f"task {task}: {reason}")
    if len(done.failures) > SHOWN_FAILURES:
        say(f"and {len(done.failures) - SHOWN_FAILURES:,} more failed; --report FILE names them all")
