"""Bulk throughput: the overlapping pipeline beside the bare model, and beside the naive loop that most scripts are.

Run as ``python -m bench.bulk FOLDER --labels "person, dog" --count 200``. All measurements take the same images in one process:

* bare: images decoded before, then encode and decode, one by one; nothing else can be faster on this machine
* pipeline: the whole of ``maskloom prelabel`` from files to an import file, ledger and report pictures included
* naive and pipeline over HTTP: every image is downloaded and every prediction uploaded with a delay, as over a network;
  the naive loop does one thing after the other, and writes masks with label-studio-sdk where it is installed
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
from PIL import Image as PillowImage

from backend.assemble import bulk_context
from backend.bulk.reader import BulkJob, FolderReader, TaskReader
from backend.bulk.run import BulkContext, Run
from backend.bulk.spec import FolderSource, JobSpec, resolve
from backend.bulk.values import Form, ItemResult, Target
from backend.bulk.work import PipelineLimits, Worker, process
from backend.cli.bulk import TURN_S
from backend.images import Media
from backend.images.limits import MediaOptions
from backend.labelstudio.shapes import painted as rle
from backend.segmenter import Segmenter
from backend.stores.ledger import Item, RunIdentity, pages
from backend.values.errors import MaskloomError
from backend.values.session import ForNames
from backend.values.settings import Settings
from bench.rle import find_sdk
from prompts.geometry import BoolArray
from prompts.kinds import KeyedImage
from prompts.phrases import Vocabulary

TURN = 50


@dataclass(frozen=True)
class Bench:
    """What is measured: items of a folder, and the job over them."""

    context: BulkContext
    job: BulkJob
    items: Sequence[Item]
    work: Path

    @property
    def segmenter(self) -> Segmenter:
        return self.context.engine.segmenter()

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.job.reader.labels)

    def worker(self) -> Worker:
        return Worker(self.context.images, self.context.engine.segmenter, self.job.reader)


@dataclass(frozen=True)
class Spent:
    """The time that something took, and the processor time of all threads, which a busy machine changes little; in seconds."""

    seconds: float = 0.0
    cpu_s: float = 0.0

    @classmethod
    def now(cls) -> Spent:
        return cls(time.perf_counter(), time.process_time())

    def since(self) -> Spent:
        now = Spent.now()
        return Spent(now.seconds - self.seconds, now.cpu_s - self.cpu_s)

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.seconds + other.seconds, self.cpu_s + other.cpu_s)


def bare(bench: Bench) -> Spent:
    """Encode and decode alone."""
    loaded = [bench.worker().load(item) for item in bench.items]
    images = [image for each in loaded if not isinstance(each, ItemResult) for image in each.images]
    started = Spent.now()
    for image in images:
        bench.segmenter.segment([ForNames(image, bench.vocabulary)])
    return started.since()


def pipeline(bench: Bench) -> Spent:
    """A whole run from files to a file."""
    worker, version = bench.worker(), bench.context.engine.version
    identity = RunIdentity("bench", "bench", version, str(time.monotonic_ns()))
    run = Run(bench.context, replace(bench.job, source=_Some(bench.items), identity=identity))
    started = Spent.now()
    run.work(lambda items: process(worker, items, version, PipelineLimits(batch=1)))
    bench.job.sink.finish()
    return started.since()


@dataclass(frozen=True)
class _Some:
    """Some of a folder's items."""

    some: Sequence[Item]
    name: str = "bench"

    def items(self) -> Iterator[Item]:
        return iter(self.some)


def naive_over_http(bench: Bench, url: str, encode: Callable[[BoolArray], list[int]]) -> Spent:
    """Download, predict, write run lengths, upload: one after the other."""
    started = Spent.now()
    with httpx.Client(base_url=url, trust_env=False) as http:
        for item in bench.items:
            body = http.get(f"/{item.key}").raise_for_status().content
            image = np.array(PillowImage.open(io.BytesIO(body)).convert("RGB"))
            (done,) = bench.segmenter.segment([ForNames(KeyedImage.of(image), bench.vocabulary)])
            if isinstance(done, MaskloomError):
                raise done
            result = [{"label": region.label, "rle": encode(region.mask)} for region in done.masks]
            http.post("/predictions", json=[{"task": item.key, "result": result}]).raise_for_status()
    return started.since()


def pipeline_over_http(bench: Bench, url: str) -> Spent:
    """The same downloads and uploads, overlapping."""
    options = MediaOptions(cache_dir=bench.work / "cache", cache_bytes=0)
    assert isinstance(bench.job.reader, FolderReader)
    reader = TaskReader(bench.job.reader.label_config)
    worker = Worker(Media(options), bench.context.engine.segmenter, reader)
    version = bench.context.engine.version
    items = [Item(item.key, {"id": item.key, "data": {"image": f"{url}/{item.key}"}}, "") for item in bench.items]
    sink = _HttpSink(httpx.Client(base_url=url, trust_env=False))
    identity = RunIdentity("bench", "http", version, str(time.monotonic_ns()))
    run = Run(bench.context, BulkJob(_Some(items), sink, reader, identity))
    started = Spent.now()
    run.work(lambda found: process(worker, found, version, PipelineLimits(batch=1)))
    return started.since()


@dataclass(frozen=True)
class _HttpSink:
    """Predictions by POST, sixteen in a request."""

    http: httpx.Client
    name: str = "http"
    form: Form = Form.PREDICTION

    def arrived(self, keys: Sequence[str]) -> set[str]:
        return set()

    def remove(self, keys: Sequence[str]) -> None:
        """Nothing is done anew."""

    def write(self, results: Sequence[ItemResult]) -> Mapping[str, str]:
        self.http.post("/predictions", json=[dict(result.prediction) for result in results]).raise_for_status()
        return {}

    def finish(self) -> str:
        return ""


@contextmanager
def slow_server(folder: Path, delay_s: float) -> Iterator[str]:
    """A server of a folder's files that takes uploads, every answer after a delay."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer((folder / self.path.lstrip("/")).read_bytes())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(b"{}")

        def answer(self, body: bytes) -> None:
            time.sleep(delay_s)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def prepare(arguments: argparse.Namespace, work: Path) -> Bench:
    """The context over the first images of the folder, with the model loaded and warm."""
    root = arguments.folder.resolve()
    sys.setswitchinterval(TURN_S)  # as the command does
    context = bulk_context(Settings(home=work / "home", feature_cache_mib=1), root, threading.Event())
    spec = JobSpec(str(root), Target.IMPORT, work / "import.json", labels=arguments.labels)
    job = resolve(spec, context.engine.version, context.studio, threading.Event())
    assert isinstance(job.source, FolderSource)
    bench = Bench(context, job, list(job.source.items())[: arguments.count], work)
    for item in bench.items[:3]:
        list(process(bench.worker(), [item], context.engine.version, PipelineLimits()))
    return bench


def sdk_encoder() -> tuple[str, Callable[[BoolArray], list[int]]]:
    """label-studio-sdk's encoder, or ours where it is not installed, and which it is."""
    sdk = find_sdk(Path(Settings().home_folder), Path(".maskloom"))
    if sdk is None:
        return "our run lengths (no label-studio-sdk here)", rle.encode
    return "label-studio-sdk's run lengths", lambda mask: list(sdk.mask2rle(mask.astype(np.uint8) * 255))


def measure(bench: Bench, ways: Mapping[str, Callable[[Bench], Spent]]) -> dict[str, Spent]:
    """What every way took. They take turns, fifty images at a time, so that a busy machine is busy for all."""
    spent = dict.fromkeys(ways, Spent())
    done = 0
    for turn in pages(bench.items, TURN):
        for name, way in ways.items():
            spent[name] += way(replace(bench, items=turn))
        done += len(turn)
        told = (f"{name} {done / each.seconds:.3f}/s ({each.cpu_s / done:.2f} CPU s)" for name, each in spent.items())
        print(f"{done} images: {', '.join(told)}", flush=True)
    return spent


def main() -> None:
    """Measure and print; with ``--out`` also as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--labels", default="person, dog, cat, car")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--delay-ms", type=float, default=50.0)
    parser.add_argument("--ways", default="bare,pipeline,naive over http,pipeline over http")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work, slow_server(arguments.folder.resolve(), arguments.delay_ms / 1000) as url:
        bench = prepare(arguments, Path(work))
        which, encode = sdk_encoder()
        ways: dict[str, Callable[[Bench], Spent]] = {
            "bare": bare,
            "pipeline": pipeline,
            "naive over http": lambda some: naive_over_http(some, url, encode),
            "pipeline over http": lambda some: pipeline_over_http(some, url),
        }
        measured = measure(bench, {name: ways[name.strip()] for name in arguments.ways.split(",")})
    engine = bench.context.engine.version
    print(f"{len(bench.items)} images, engine {engine}, delay {arguments.delay_ms:g} ms, naive loop: {which}")
    rows = {
        name: {"images_per_s": len(bench.items) / each.seconds, "cpu_s_per_image": each.cpu_s / len(bench.items)}
        for name, each in measured.items()
    }
    for name, row in rows.items():
        print(f"{name:20} {row['images_per_s']:8.3f} images/s {row['cpu_s_per_image']:8.3f} CPU s an image")
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
