"""The commands about what a project's annotations have taught: remember, balance and memory."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from backend.cli.bulk import open_context
from backend.cli.terminal import read_settings, say, say_error, write_text
from backend.serving.remembering import Remembered
from backend.serving.remembering import remember as remember_all
from backend.stores.balance import Balance, BalanceRow, wilson
from backend.stores.curation import Curation
from backend.stores.database import Database
from backend.stores.projects import number_of
from backend.stores.snapshots import Snapshot, Snapshots
from backend.values.errors import MaskloomError, RequestError
from backend.values.settings import Settings

TOLD_EVERY = 100
"""Tasks."""
HEAD = "week        label             suggested  accepted (95 %)     edited deleted missed  drawn   IoU seconds prompts"


def remember(
    project: Annotated[int, typer.Argument(help="The number of a Label Studio project.")],
    url: Annotated[str | None, typer.Option(help="Label Studio's address, or MASKLOOM_LABEL_STUDIO_URL.")] = None,
    token: Annotated[str | None, typer.Option(help="Its token, or MASKLOOM_LABEL_STUDIO_TOKEN.")] = None,
) -> None:
    """Make the memory of a project what its annotations say: those from before, and those missed while the server was down."""
    from backend.assemble import label_studio, memory_bank, project_key

    settings = read_settings(url, token)
    with label_studio(settings) as studio:
        found = studio.project(project)
        memory, key = memory_bank(settings), project_key(settings, found)
        done = remember_all(studio, found, key, memory, _watch)
    print(
        f"{done.regions:,} regions of {done.annotations:,} annotations of {done.tasks:,} tasks are remembered; "
        f"{done.gone:,} annotations that are gone were forgotten"
    )
    for label, number in memory.labels(key).items():
        print(f"{number:7,}  {label}")


def balance(
    project: Annotated[str, typer.Argument(help="The number of a project, or its key as the memory page shows it.")],
    out: Annotated[Path | None, typer.Option(help="The numbers as JSON.")] = None,
) -> None:
    """Say what people made of the suggestions, by label and week: how many were accepted as they were, and what they cost."""
    database = Database(read_settings().database_url)
    rows = Balance(database).rows(find_key(database, project))
    print(HEAD)
    for row in rows:
        print(_line(row))
    noticed, overlooked = sum(row.noticed for row in rows), sum(row.overlooked for row in rows)
    if damaged := noticed + overlooked:
        low, high = wilson(noticed, damaged)
        print(f"of {damaged:,} suggestions that were damaged on purpose {noticed:,} were put right ({low:.0%}-{high:.0%})")
    if out is not None:
        numbers = [{**asdict(row), "week": row.week.isoformat(), "accepted_share": row.accepted_share} for row in rows]
        write_text(out, json.dumps(numbers, indent=1), "--out")


def train(
    project: Annotated[str, typer.Argument(help="The number of a project, or its key as the memory page shows it.")],
    url: Annotated[str | None, typer.Option(help="Label Studio's address, or MASKLOOM_LABEL_STUDIO_URL.")] = None,
    token: Annotated[str | None, typer.Option(help="Its token, or MASKLOOM_LABEL_STUDIO_TOKEN.")] = None,
) -> None:
    """Fit which suggestions are worth making to what annotators left and deleted. A third of the tasks is held back: what was
    fitted is used only if suggestions for these become better. `maskloom memory use` goes back.
    """
    settings = read_settings(url, token)
    _train(settings, find_key(Database(settings.database_url), project))


def train_as_told() -> None:
    """The same for a server: its settings come through standard input, and the project's key is the only argument."""
    try:
        _train(Settings(**json.loads(sys.stdin.read())), sys.argv[1])
    except MaskloomError as error:
        say_error(error)
        raise SystemExit(1) from error


def _train(settings: Settings, key: str) -> None:
    from backend.assemble import training

    done = training(settings).train(key, lambda asked, total: say(f"{asked:,} of {total:,} tasks"))
    report = done.report
    for label, score in report["least"].items():
        print(f"{label[:30]:30} suggested from a score of {score:.3f} on")
    told = f"{report['quality_before']} before, {report['quality']} after"
    print(f"quality on {report['tasks']:,} tasks that were held back: {told}")
    print(f"{done.adopted.name} is used from now on" if done.adopted is not None else "not better, so that nothing has changed")


def find_key(database: Database, project: str) -> str:
    """The key of the only project with this number or key that is remembered. Raises RequestError unless there is just one."""
    known = list(Curation(database).projects())
    found = [key for key in known if project in (key, number_of(key))]
    if len(found) != 1:
        told = ", ".join(found or known) or "nothing yet"
        raise RequestError(
            f"{len(found)} projects are remembered as {project} here, where there are: {told}; the server that answers a "
            "project keeps this in its database (MASKLOOM_DATABASE), and `maskloom remember` reads annotations from before"
        )
    return found[0]


def _line(row: BalanceRow) -> str:
    share = row.accepted_share
    accepted = f"{share[0]:4.0%} ({share[1]:.0%}-{share[2]:.0%})" if share else ""
    iou = "" if row.iou is None else f"{row.iou:.3f}"
    seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
    counts = f"{row.corrected:7,} {row.rejected:7,} {row.missed:6,} {row.drawn:6,}"
    return f"{row.week}  {row.label[:16]:16}  {row.suggested:9,}  {accepted:16} {counts} {iou:>5} {seconds:>7} {row.prompts:7,}"


memory = typer.Typer(no_args_is_help=True, help="Versions of what a project's annotations have taught, opt-out and copies.")
PROJECT = typer.Argument(help="The number of a project, or its key as the memory page shows it.")


@memory.command()
def show(project: Annotated[str, PROJECT]) -> None:
    """Say what is remembered of a project, and which versions there are."""
    database = Database(read_settings().database_url)
    key = find_key(database, project)
    for label, counts in Curation(database).counts(key).items():
        print(f"{label[:30]:30} " + ", ".join(f"{number:,} {verdict}" for verdict, number in sorted(counts.items())))
    for version in Snapshots(database).all(key):
        print(_version(version))


def _version(version: Snapshot) -> str:
    state = "withdrawn" if version.is_withdrawn else "used by bulk runs" if version.is_for_bulk else "not used"
    report = version.report
    told = f"; quality {report['quality']}, with {report['before']} {report['quality_before']}" if report else ""
    doubts = "".join(
        f"\n  doubtful: region {each['region']} of task {each['task']}, accepted as {each['label']}, looks like "
        f"{each['looks_like'] or 'nothing else that was accepted'}"
        for each in report.get("doubtful", ())
    )
    return f"{version.name}: {version.examples:,} regions, {state}{told}{doubts}"


@memory.command()
def freeze(
    project: Annotated[str, PROJECT],
    url: Annotated[str | None, typer.Option(help="Label Studio's address, or MASKLOOM_LABEL_STUDIO_URL.")] = None,
    token: Annotated[str | None, typer.Option(help="Its token, or MASKLOOM_LABEL_STUDIO_TOKEN.")] = None,
) -> None:
    """Freeze a version and weigh it; bulk runs use it from now on if it finds what was accepted no worse."""
    settings = read_settings(url, token)
    context = open_context(settings, None)
    with closing(context.images):
        key = find_key(Database(settings.database_url), project)
        frozen, _ = context.memories.freeze(key) if context.memories is not None else (None, False)
    if frozen is None:
        raise RequestError(f"project {project} has nothing to freeze yet")
    print(_version(frozen))


@memory.command()
def use(
    project: Annotated[str, PROJECT], version: Annotated[str, typer.Argument(help="The number of a version, or none.")]
) -> None:
    """Let bulk runs use a version, an earlier one as well."""
    if version != "none" and not version.isdecimal():
        raise RequestError(f"a version is a number or none, not {version[:40]!r}")
    database = Database(read_settings().database_url)
    Snapshots(database).choose(find_key(database, project), None if version == "none" else int(version))


@memory.command()
def off(project: Annotated[str, PROJECT]) -> None:
    """Forget everything about a project, and remember nothing from now on."""
    database = Database(read_settings().database_url)
    Curation(database).switch_off(find_key(database, project))


@memory.command()
def on(project: Annotated[str, PROJECT]) -> None:
    """Remember a project again, from now on; `maskloom remember` reads what there is."""
    database = Database(read_settings().database_url)
    Curation(database).switch_on(find_key(database, project))


@memory.command("export")
def write_copy(project: Annotated[str, PROJECT], out: Annotated[Path, typer.Option(help="The file to write.")]) -> None:
    """Write the memory of a project to a file of JSON lines: regions and where they are from, without images."""
    database = Database(read_settings().database_url)
    write_text(out, "\n".join(Curation(database).export(find_key(database, project))) + "\n", "--out")


@memory.command("import")
def read_copy(
    project: Annotated[str, typer.Argument(help="The key of the project that is to remember it, as the memory page shows it.")],
    file: Annotated[Path, typer.Argument(help="A file of `maskloom memory export`.")],
) -> None:
    """Take over a copy of a memory, where nothing newer is known; its images must have the same addresses."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{file} cannot be read: {error}; name a file of `maskloom memory export`") from error
    print(f"{Curation(Database(read_settings().database_url)).read_export(project, lines):,} annotations were taken over")


def _watch(stand: Remembered) -> None:
    if stand.tasks % TOLD_EVERY == 0:
        say(f"{stand.tasks:,} tasks, {stand.regions:,} regions")
