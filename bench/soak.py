"""What a server is like after a while of work: ``python -m bench.soak --minutes 30``.

Annotators click twice on pictures of discs whose masks are known, submitted annotations come in as webhooks, a bulk run over
a folder goes on beside. Told are the slope of the server's memory over the last two thirds of the time, once caches are full,
answers that failed or were not the disc, and how long the second click on an object takes.
"""

from __future__ import annotations

import base64
import io
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from PIL import Image, ImageDraw

from backend.labelstudio.shapes import painted
from prompts.geometry import Size

WIDTH, HEIGHT, RADIUS = 480, 360, 60
LABELS = '<Label value="red"/><Label value="blue"/>'
CONFIG = (
    '<View><Image name="image" value="$image"/>'
    f'<BrushLabels name="brush" toName="image">{LABELS}</BrushLabels>'
    f'<KeyPointLabels name="point" toName="image" smart="true">{LABELS}</KeyPointLabels></View>'
)
MASKLOOM = (sys.executable, "-c", "from backend.cli import main; main()")
SETTLED = 1 / 3
FILLED = 700
"""The slope counts after this part of the time and so many pictures: they fill the caches, of which that of decoded images has
256 MiB.
"""


@dataclass(frozen=True)
class Span:
    """Until when all go on, and how long they think between two pictures, in seconds."""

    until: float
    think_s: float


@dataclass
class Seen:
    """What all annotators saw."""

    seconds: list[float] = field(default_factory=list)
    rounds: int = 0
    lost: list[str] = field(default_factory=list)
    bulk_runs: int = 0
    memory: list[tuple[float, float]] = field(default_factory=list)
    filled: int | None = None


def picture(number: int) -> tuple[str, tuple[int, int]]:
    """The address of a picture of a red disc on noise, and the centre of the disc."""
    chance = random.Random(number)
    x, y = chance.randint(RADIUS, WIDTH - RADIUS), chance.randint(RADIUS, HEIGHT - RADIUS)
    noise = np.random.default_rng(number).integers(225, 256, (HEIGHT, WIDTH, 3), np.uint8)
    image = Image.fromarray(noise)
    ImageDraw.Draw(image).ellipse((x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS), fill=(230, 20, 30))
    out = io.BytesIO()
    image.save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode(), (x, y)


def click(x: float, y: float, name: str) -> dict[str, Any]:
    value = {"x": 100 * x / WIDTH, "y": 100 * y / HEIGHT, "width": 0.2, "keypointlabels": ["red"]}
    head = {
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "from_name": "point",
        "to_name": "image",
        "type": "keypointlabels",
    }
    return {**head, "id": name, "value": value, "is_positive": True}


def annotate(client: httpx.Client, number: int, seen: Seen) -> None:
    """Two clicks on a picture, and its submission."""
    url, (x, y) = picture(number)
    clicks = [click(x, y, f"a{number}"), click(x + 20, y + 10, f"b{number}")]
    task = {"id": number, "data": {"image": url}, "drafts": [], "annotations": [], "predictions": []}
    result: list[dict[str, Any]] = []
    for count in (1, 2):
        body = {
            "tasks": [task],
            "project": "1.1700000000",
            "label_config": CONFIG,
            "params": {"context": {"result": clicks[:count]}},
        }
        started = time.perf_counter()
        answer = client.post("/predict", json=body, timeout=120)
        took = time.perf_counter() - started
        seen.rounds += 1
        result = answer.json()["results"][0]["result"] if answer.status_code == 200 else []
        if not result or not _is_the_disc(result[0], x, y):
            seen.lost.append(f"picture {number}, click {count}: {answer.status_code} {str(answer.text)[:80]}")
        if count == 2:
            seen.seconds.append(took)
    event = {
        "action": "ANNOTATION_CREATED",
        "project": {"id": 1, "label_config": CONFIG},
        "task": {"id": number, "data": task["data"]},
    }
    client.post("/webhook", json={**event, "annotation": {"id": number, "task": number, "result": result}})


def _is_the_disc(item: dict[str, Any], x: int, y: int) -> bool:
    if "rle" not in item["value"]:
        return False
    mask = painted.decode(item["value"]["rle"], Size(HEIGHT, WIDTH))
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    disc = (columns - x) ** 2 + (rows - y) ** 2 <= RADIUS**2
    return bool((mask & disc).sum() / (mask | disc).sum() > 0.9)


def work(base: str, first: int, span: Span, seen: Seen) -> None:
    """One annotator, who thinks for a moment between two pictures."""
    with httpx.Client(base_url=base, trust_env=False) as client:
        number = first
        while time.monotonic() < span.until:
            try:
                annotate(client, number, seen)
            except (httpx.HTTPError, KeyError, ValueError) as error:
                seen.lost.append(f"picture {number}: {error!r}")
            number += 1
            time.sleep(span.think_s * random.uniform(0.4, 1.6))


def watch(base: str, span: Span, seen: Seen) -> None:
    """The server's memory every five seconds."""
    while time.monotonic() < span.until:
        lines = httpx.get(f"{base}/metrics", trust_env=False, timeout=60).text.splitlines()
        level = next(line for line in lines if line.startswith("maskloom_resident_bytes "))
        if seen.filled is None and len(seen.seconds) >= FILLED:
            seen.filled = len(seen.memory)
        seen.memory.append((time.monotonic(), float(level.split()[1]) / 2**20))
        time.sleep(5)


def bulk(folder: Path, environment: dict[str, str], span: Span, seen: Seen) -> None:
    """A bulk run over a folder, again and again; one that fails is lost."""
    out = str(folder / "coco.json")
    command = [*MASKLOOM, "prelabel", str(folder / "photos"), "--labels", "red", "--out", out, "--force"]
    while time.monotonic() < span.until:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        seen.bulk_runs += done.returncode == 0
        if done.returncode:
            seen.lost.append(f"bulk run: exit code {done.returncode} {done.stderr[-80:]}")
        time.sleep(span.think_s)


def serve(environment: dict[str, str]) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([*MASKLOOM, "serve", "--port", str(port)], env=environment)
    base = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            if httpx.get(f"{base}/health", trust_env=False, timeout=60).json()["model_loaded"]:
                return server, base
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    server.terminate()
    raise SystemExit("the server did not come up")


def slope(seen: Seen) -> tuple[float, float]:
    """MiB a minute over what is settled, and its standard error; no numbers where the caches never were full.

    By least squares over the means of ten parts: from one second to the next memory comes and goes with what is under way, by
    many times of what is looked for, and stays so for a minute or two.
    """
    first = len(seen.memory) if seen.filled is None else max(int(len(seen.memory) * SETTLED), seen.filled)
    parts = np.array_split(np.array(seen.memory[first:]), 10)
    if not all(len(part) for part in parts):
        return float("nan"), float("nan")
    times, levels = np.array([part.mean(axis=0) for part in parts]).T
    (rise, _), doubt = np.polyfit(times / 60, levels, 1, cov=True)
    return float(rise), float(doubt[0, 0] ** 0.5)


def curve(seen: Seen) -> list[float]:
    """MiB in each tenth of the time, the median: a leak rises to the end, a cache until it is full."""
    return [float(np.median(part)) for part in np.array_split([level for _, level in seen.memory], 10) if len(part)]


def main(
    minutes: Annotated[float, typer.Option(help="How long.")] = 30,
    annotators: Annotated[int, typer.Option(help="How many click at the same time.")] = 8,
    think: Annotated[float, typer.Option(help="Seconds between two pictures of an annotator, on average.")] = 0.5,
) -> None:
    """Work for a while and tell what it did to the server; exit code 1 where a bound of the project is broken."""
    seen, folder = Seen(), Path(tempfile.mkdtemp(prefix="maskloom-soak-"))
    (folder / "photos").mkdir()
    for number in range(40):
        _, _, body = picture(10**6 + number)[0].partition(",")
        (folder / "photos" / f"{number}.png").write_bytes(base64.b64decode(body))
    environment = {
        **os.environ,
        "MASKLOOM_ENGINE": "colour",
        "MASKLOOM_HOME": str(folder / "home"),
        "MASKLOOM_FEATURE_CACHE_MIB": "64",
    }
    server, base = serve(environment)
    span = Span(time.monotonic() + 60 * minutes, think)
    others = {**environment, "MASKLOOM_HOME": str(folder / "bulk")}
    jobs = [threading.Thread(target=work, args=(base, 10**4 * (each + 1), span, seen)) for each in range(annotators)]
    jobs += [
        threading.Thread(target=watch, args=(base, span, seen)),
        threading.Thread(target=bulk, args=(folder, others, span, seen)),
    ]
    try:
        for job in jobs:
            job.start()
        for job in jobs:
            job.join()
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)  # it remembers gigabytes of pictures
    _tell(seen)


def _tell(seen: Seen) -> None:
    median, last = statistics.median(seen.seconds), float(np.percentile(seen.seconds, 99))
    rise, doubt = slope(seen)
    print(f"rounds          {seen.rounds:,}, lost {len(seen.lost)}")
    for each in seen.lost[:5]:
        print(f"                {each}")
    print(f"bulk runs       {seen.bulk_runs:,} beside")
    print(f"second click    median {1000 * median:.0f} ms, p99 {1000 * last:.0f} ms ({last / median:.1f} times)")
    first, end = seen.memory[0][1], seen.memory[-1][1]
    print(f"memory          {first:.0f} MiB at first, {end:.0f} at last, {rise:+.2f} MiB a minute (standard error {doubt:.2f})")
    print(f"                {' '.join(f'{level:.0f}' for level in curve(seen))} in the tenths of the time")
    if seen.filled is None:
        print(f"                no slope: {len(seen.seconds)} pictures do not fill the caches, {FILLED} do")
    raise SystemExit(bool(seen.lost) or not seen.bulk_runs or not rise <= 1 or last > 5 * median)


if __name__ == "__main__":
    typer.run(main)
