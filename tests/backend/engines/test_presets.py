"""Every preset from the hub to an answer: its published layout is fetched, the network is cut, a server is started, and a
click and a phrase through ``/predict`` are answered with the masks of transformers' own processors and models.

The models are small and random, and nothing else is done differently. Masks differ in at most one pixel of a thousand: logits
are equal to 1e-4, and a pixel whose logit is nearer to zero may fall on either side.
"""

from __future__ import annotations

import base64
import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from fastapi.testclient import TestClient
from huggingface_hub import constants
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from backend.app import create_app
from backend.assemble import assemble
from backend.cli import cli
from backend.engines.catalogue import ENGINES
from backend.engines.sam import detectors, sam3
from backend.labelstudio.shapes import painted as rle
from backend.values.settings import Settings
from prompts.geometry import Size
from tests.backend.engines import tiny_bundles, tiny_models
from tests.backend.engines.hub_double import HubDouble, repositories_of, serving

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),  # torchvision 0.28, when it is imported
]
PRESETS = sorted(name for name, recipe in ENGINES.items() if recipe.can_refine)
HEIGHT, WIDTH = 96, 160
CLICK = 70.4, 40.8
PHRASE = "red cup"
MOST_DIFFERENT = 0.001
CONFIG = """<View>
  <TextArea name="prompt" toName="image"/><Image name="image" value="$image"/>
  <BrushLabels name="brush" toName="image"><Label value="Cup"/></BrushLabels>
  <KeyPointLabels name="kp" toName="image" smart="true"><Label value="Cup"/></KeyPointLabels>
</View>"""
UNREAD = {"README.md": b"# A model", "preprocessor_config.json": b"{}", "pytorch_model.bin": b"a pickle"}
Masks = NDArray[np.bool_]


@pytest.fixture(scope="module", params=PRESETS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def published(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose decoder believes that there is an object wherever it is asked."""
    bundle = tiny_bundles.write_published_bundle(name, tmp_path_factory.mktemp(name))
    path = bundle / "decoder" / "model.safetensors"
    weights = load_file(path)
    for key in weights:
        if "obj_score" in key and key.endswith("proj_out.bias"):
            weights[key] += 10
    save_file(weights, path, metadata={"format": "pt"})
    return bundle


@pytest.fixture(scope="module")
def picture() -> NDArray[np.uint8]:
    """Blobs of many colours."""
    coarse = np.random.default_rng(5).integers(0, 256, (6, 10, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def client(name: str, published: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A server that was set up in the way of the documentation; after fetching every connection is refused."""
    home = tmp_path_factory.mktemp(f"home-{name}")
    repositories = repositories_of(published, {part.role: part.repository for part in ENGINES[name].models})
    for files in repositories.values():
        files.update(UNREAD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        patch.setenv("MASKLOOM_HOME", str(home))
        with serving(HubDouble(repositories)) as hub:
            patch.setenv("MASKLOOM_HUB_URL", hub.url)
            done = CliRunner().invoke(cli, ["fetch", name])
            assert done.exit_code == 0, done.output
            assert not [path for path in hub.fetched if path.rpartition("/")[2] in UNREAD]
        asked: list[Any] = []
        patch.setattr(socket, "getaddrinfo", lambda *where, **_: _refuse(asked, where))
        patch.setattr(socket.socket, "connect", lambda _, where: _refuse(asked, where))
        patch.setattr(detectors, "OMDET_THRESHOLD", 0.001)  # random models are sure of nothing
        patch.setattr(detectors, "GROUNDING_DINO_THRESHOLD", 0.001)
        patch.setattr(sam3, "THRESHOLD", 0.0)
        patch.setattr(sam3, "LEAST_PRESENCE", 0.0)
        with TestClient(create_app(assemble(Settings(engine=name, home=home, device="cpu", dtype="float32")))) as client:
            yield client
        assert asked == []


def _refuse(asked: list[Any], where: Any) -> Any:
    asked.append(where)
    raise socket.gaierror(socket.EAI_NONAME, "there is no network")


def predict(client: TestClient, picture: NDArray[np.uint8], said: dict[str, Any]) -> Masks:
    """The masks ``(N, H, W)`` that Label Studio gets for what was said on the picture."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    image = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    task = {"id": 1, "data": {"image": image}, "annotations": [], "predictions": [], "drafts": []}
    params = {"login": None, "password": None, "context": {"result": [{"id": "x", "to_name": "image", **said}]}}
    answer = client.post("/predict", json={"tasks": [task], "project": "1.1", "label_config": CONFIG, "params": params})
    assert answer.status_code == 200, answer.text
    (prediction,) = answer.json()["results"]
    regions = [region for region in prediction["result"] if region["type"] == "brushlabels"]
    assert regions, json.dumps(prediction)
    return np.stack([rle.decode(region["value"]["rle"], Size(HEIGHT, WIDTH)) for region in regions])


def click() -> dict[str, Any]:
    value = {"x": 100 * CLICK[0] / WIDTH, "y": 100 * CLICK[1] / HEIGHT, "width": 0.2, "keypointlabels": ["Cup"]}
    return {
        "type": "keypointlabels",
        "from_name": "kp",
        "is_positive": True,
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "value": value,
    }


def phrase() -> dict[str, Any]:
    return {"type": "textarea", "from_name": "prompt", "value": {"text": [PHRASE]}}


class Pipeline:
    """transformers' own way from an image and prompts to masks ``(N, H, W)``, by the published folders alone."""

    def __init__(self, bundle: Path) -> None:
        self.bundle = bundle
        self.kind = json.loads((bundle / "decoder" / "config.json").read_text())["model_type"].removesuffix("_video")

    @torch.inference_mode()
    def click(self, image: NDArray[np.uint8]) -> Masks:
        """The candidate that the model itself thinks best."""
        found, masks = self._segment(image, input_points=[[[list(CLICK)]]], input_labels=[[[1]]], multimask_output=True)
        return masks[0, found.iou_scores[0, 0].argmax()][None]

    @torch.inference_mode()
    def phrase(self, image: NDArray[np.uint8]) -> Masks:
        """The masks of all boxes that the detector has, or those of SAM 3 itself."""
        if self.kind == "sam3":
            return self._concept(self.bundle / "decoder", hf.Sam3Model, image)
        grounder = json.loads((self.bundle / "grounder" / "config.json").read_text())["model_type"]
        if grounder == "sam3_lite_text":
            return self._concept(self.bundle / "grounder", hf.Sam3LiteTextModel, image)
        boxes = (_omdet if grounder == "omdet-turbo" else _grounding_dino)(self.bundle / "grounder", image)
        _, masks = self._segment(image, input_boxes=[boxes.tolist()], multimask_output=False)
        return masks[:, 0]

    def _segment(self, image: NDArray[np.uint8], **prompts: Any) -> tuple[Any, Masks]:
        if self.kind == "sam3":
            return self._track(image, **prompts)
        multimask = prompts.pop("multimask_output")
        name = {"sam": "Sam", "sam_hq": "SamHQ", "sam2": "Sam2", "edgetam": "EdgeTam"}[self.kind]
        side, model = tiny_models.SIDE, getattr(hf, f"{name}Model").from_pretrained(self.bundle / "decoder").eval()
        if self.kind in ("sam", "sam_hq"):
            images = hf.SamImageProcessor(size={"longest_edge": side}, pad_size={"height": side, "width": side})
            processor = getattr(hf, f"{name}Processor")(images)
        else:
            processor = hf.Sam2Processor(hf.Sam2ImageProcessor(size={"height": side, "width": side}), target_size=side)
        inputs = processor(images=image, return_tensors="pt", input_data_format="channels_last", **prompts)
        wanted = ("pixel_values", "input_points", "input_labels", "input_boxes")
        given = {
            key: inputs[key].float() if inputs[key].is_floating_point() else inputs[key] for key in wanted if key in inputs
        }
        found = model(**given, multimask_output=multimask)
        sizes = [inputs[key] for key in ("original_sizes", "reshaped_input_sizes") if key in inputs]
        (logits,) = processor.post_process_masks(found.pred_masks, *sizes, binarize=False)
        return found, (logits > 0).numpy()

    def _track(self, image: NDArray[np.uint8], **prompts: Any) -> tuple[Any, Masks]:
        """SAM 3's tracker, with the embedding of "nothing is remembered" where its video model adds it."""
        side, model = tiny_models.SAM3_SIDE, hf.Sam3TrackerModel.from_pretrained(self.bundle / "decoder").eval()
        pixels = hf.Sam3ImageProcessor(size={"height": side, "width": side})(image, return_tensors="pt")["pixel_values"]
        *finer, coarse = model.get_image_embeddings(pixels)
        scale = torch.tensor([side / WIDTH, side / HEIGHT])
        found = model(
            image_embeddings=[*finer, coarse + model.no_memory_embedding.reshape(1, -1, 1, 1)],
            input_points=torch.tensor(prompts["input_points"]) * scale,
            input_labels=torch.tensor(prompts["input_labels"]),
            multimask_output=prompts["multimask_output"],
        )
        logits = torch.nn.functional.interpolate(found.pred_masks[0], (HEIGHT, WIDTH), mode="bilinear", align_corners=False)
        return found, (logits > 0).numpy()

    def _concept(self, folder: Path, model_class: Any, image: NDArray[np.uint8]) -> Masks:
        side = tiny_models.SAM3_SIDE
        images = hf.Sam3ImageProcessor(size={"height": side, "width": side})
        processor = hf.Sam3Processor(images, hf.AutoTokenizer.from_pretrained(folder, local_files_only=True), target_size=side)
        inputs = processor(images=image, text=PHRASE, return_tensors="pt", input_data_format="channels_last")
        with torch.compiler.set_stance("force_eager"):
            found = model_class.from_pretrained(folder).eval()(
                **{key: inputs[key] for key in ("pixel_values", "input_ids", "attention_mask")}
            )
        logits = torch.nn.functional.interpolate(found.pred_masks, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)
        return (logits[0] > 0).numpy()


def _omdet(folder: Path, image: NDArray[np.uint8]) -> torch.Tensor:
    """All boxes of OmDet-Turbo, in pixels; its published configuration is read with the backbone that it names spelt out."""
    side = tiny_models.SIDE
    values = json.loads((folder / "config.json").read_text())
    timm = {"model_type": "timm_backbone", "backbone": values.pop("backbone"), **values.pop("backbone_kwargs")}
    for asking in ("use_timm_backbone", "use_pretrained_backbone"):
        values.pop(asking)
    config = hf.OmDetTurboConfig.from_dict({**values, "backbone_config": timm})
    model = hf.OmDetTurboForObjectDetection.from_pretrained(folder, config=config).eval()
    images = hf.DetrImageProcessor(size={"height": side, "width": side}, do_pad=False)
    processor = hf.OmDetTurboProcessor(images, hf.CLIPTokenizer.from_pretrained(folder, local_files_only=True))
    inputs = processor(images=image, text=[PHRASE], return_tensors="pt")
    inputs.pop("pixel_mask", None)
    return _corners(model(**inputs).decoder_coord_logits[0])


def _grounding_dino(folder: Path, image: NDArray[np.uint8]) -> torch.Tensor:
    processor = hf.GroundingDinoProcessor(
        hf.GroundingDinoImageProcessor(), hf.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    )
    inputs = processor(images=image, text=f"{PHRASE}.", return_tensors="pt")
    return _corners(hf.GroundingDinoForObjectDetection.from_pretrained(folder).eval()(**inputs).pred_boxes[0])


def _corners(centred: torch.Tensor) -> torch.Tensor:
    corners = torch.cat([centred[:, :2] - centred[:, 2:] / 2, centred[:, :2] + centred[:, 2:] / 2], dim=1)
    scale = torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
    return (corners * scale).clamp(min=torch.zeros(4), max=scale)


def different(ours: Masks, theirs: Masks) -> NDArray[np.float64]:
    """The share of pixels ``(N,)`` by which each of our masks differs from the one of theirs that it is most like."""
    share: NDArray[np.float64] = (ours[:, None] != theirs[None]).mean(axis=(2, 3)).min(axis=1)
    return share


def test_a_click_is_answered_with_transformers_mask(client: TestClient, published: Path, picture: NDArray[np.uint8]) -> None:
    ours, theirs = predict(client, picture, click()), Pipeline(published).click(picture)
    assert ours.shape == (1, HEIGHT, WIDTH)
    assert different(ours, theirs).max() <= MOST_DIFFERENT


def test_a_phrase_is_answered_with_transformers_masks(client: TestClient, published: Path, picture: NDArray[np.uint8]) -> None:
    ours, theirs = predict(client, picture, phrase()), Pipeline(published).phrase(picture)
    assert different(ours, theirs).max() <= MOST_DIFFERENT
