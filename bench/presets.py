"""First start of a preset at full size with random weights: seconds to load, to a click, another one and a phrase, and memory.

``python -m bench.presets edgetam-cpu sam2-tiny`` writes a bundle of each in its published layout, starts ``maskloom serve``
with it and asks through ``/predict``. The weights are random: masks mean nothing, times and memory are the real ones.
"""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image

from backend.engines.catalogue import find_engine
from bench.random_models import edgetam_vision, sam2_vision
from prompts.encoders import declare_missing_operators
from tests.backend.engines.tiny_detectors import TIMM_SWIN
from tests.backend.engines.tiny_models import write_clip_tokenizer

HEIGHT, WIDTH = 768, 1024
CLIP = "ViT-B-16-quickgelu"
CONFIG = """<View>
  <TextArea name="prompt" toName="image"/><Image name="image" value="$image"/>
  <BrushLabels name="brush" toName="image"><Label value="Cup"/></BrushLabels>
  <KeyPointLabels name="kp" toName="image" smart="true"><Label value="Cup"/></KeyPointLabels>
</View>"""


def write_bundle(name: str, folder: Path) -> Path:
    """A preset's bundle at full size. Raises KeyError for one whose parts are not written here."""
    declare_missing_operators()
    writers: dict[str, Callable[[Path], object]] = {
        "yonigozlan/EdgeTAM-hf": _edgetam,
        "facebook/sam2.1-hiera-tiny": _sam2_tiny,
        "facebook/dinov2-with-registers-small": _dino,
        "omlab/omdet-turbo-swin-tiny-hf": _omdet,
        "timm/vit_base_patch16_clip_224.openai": _clip,
    }
    for model in find_engine(name).models:
        torch.manual_seed(0)
        writers[model.repository](folder / model.role)
    return folder


def _edgetam(folder: Path) -> None:
    import transformers as hf

    hf.EdgeTamVideoModel(hf.EdgeTamVideoConfig(vision_config=edgetam_vision().to_dict())).save_pretrained(folder)


def _sam2_tiny(folder: Path) -> None:
    import transformers as hf

    hf.Sam2VideoModel(hf.Sam2VideoConfig(vision_config=sam2_vision({}).to_dict())).save_pretrained(folder)


def _dino(folder: Path) -> None:
    import transformers as hf

    sizes = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "image_size": 518, "patch_size": 14}
    hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**sizes, num_register_tokens=4)).save_pretrained(folder)


def _omdet(folder: Path) -> None:
    """With the configuration that is published, in which the backbone is a name."""
    import transformers as hf

    arguments = {"out_indices": [1, 2, 3], "img_size": 640, "always_partition": True}
    backbone = {"model_type": "timm_backbone", "backbone": TIMM_SWIN, **arguments}
    config = hf.OmDetTurboConfig(backbone_config=backbone, disable_custom_kernels=True)
    hf.OmDetTurboForObjectDetection(config).save_pretrained(folder)
    path = folder / "config.json"
    named = {"backbone": TIMM_SWIN, "backbone_kwargs": arguments, "use_timm_backbone": True, "use_pretrained_backbone": False}
    path.write_text(json.dumps({**json.loads(path.read_text()), **named, "backbone_config": None}))
    write_clip_tokenizer(folder)


def _clip(folder: Path) -> None:
    import open_clip
    from safetensors.torch import save_file

    model_config = open_clip.get_model_config(CLIP)
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    config = {"model_cfg": model_config, "preprocess_cfg": {"mean": mean, "std": std}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    weights = {name: each.contiguous() for name, each in open_clip.create_model(CLIP, pretrained=None).state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")


@contextmanager
def server(name: str, weights: Path, home: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """``maskloom serve`` with a bundle."""
    settings = {"MASKLOOM_ENGINE": name, "MASKLOOM_WEIGHTS": str(weights), "MASKLOOM_HOME": str(home)}
    command = [sys.executable, "-c", "from backend.cli import main; main()", "serve", "--port", str(port)]
    with subprocess.Popen(command, env={**os.environ, **settings}, stdout=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


def wait_until_ready(port: int) -> None:
    """Until the server says that its engine is loaded."""
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)


def ask(port: int, image: str, said: dict[str, Any]) -> int:
    """What is said about an image; returns how many regions come back."""
    task = {"id": 1, "data": {"image": image}, "annotations": [], "predictions": [], "drafts": []}
    params = {"login": None, "password": None, "context": {"result": [{"id": "x", "to_name": "image", **said}]}}
    body = json.dumps({"tasks": [task], "project": "1.1", "label_config": CONFIG, "params": params}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        (prediction,) = json.load(answer)["results"]
    return sum(region["type"] == "brushlabels" for region in prediction["result"])


def click(x: float, y: float) -> dict[str, Any]:
    """A click, in per cent."""
    sizes = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    value = {"x": x, "y": y, "width": 0.2, "keypointlabels": ["Cup"]}
    return {"type": "keypointlabels", "from_name": "kp", "is_positive": True, **sizes, "value": value}


def cpu_seconds(process: int) -> float:
    """How long a process has computed; the clock says little on a busy machine."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_memory(process: int) -> float:
    """The most memory in GB that a process has held."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1e6


def main(
    names: Annotated[list[str], typer.Argument(help="edgetam-cpu, sam2-tiny.")],
    port: Annotated[int, typer.Option(help="Port of the server.")] = 9391,
) -> None:
    """Write, start, ask and print."""
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT // 32, WIDTH // 32, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(buffer, "PNG")
    image = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    phrase = {"type": "textarea", "from_name": "prompt", "value": {"text": ["red cup"]}}
    questions = {"first click": click(50, 40), "second click": click(30, 30), "phrase": phrase}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            weights = write_bundle(name, Path(folder) / "bundle")
            started = time.perf_counter()
            with server(name, weights, Path(folder) / "home", port) as process:
                wait_until_ready(port)
                took = time.perf_counter() - started
                print(f"{name}: loaded after {took:.1f} s, CPU {cpu_seconds(process.pid):.1f} s", flush=True)
                for what, said in questions.items():
                    asked, worked = time.perf_counter(), cpu_seconds(process.pid)
                    found = ask(port, image, said)
                    took, worked = time.perf_counter() - asked, cpu_seconds(process.pid) - worked
                    times = f"{took:.2f} s, CPU {worked:.2f} s, {found} regions"
                    print(f"{name}: {what} {times}, at most {peak_memory(process.pid):.2f} GB until then", flush=True)


if __name__ == "__main__":
    typer.run(main)
