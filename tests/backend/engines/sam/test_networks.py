"""Every promptable family gives the logits of transformers' own processor and model, on the same image and prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from backend.engines.catalogue import Placement
from backend.engines.device import import_class
from backend.engines.sam.engine import load_network
from backend.engines.sam.transforms import Geometry, PromptableNetwork, decode_objects
from backend.values.errors import SetupError
from prompts.geometry import Size, size_of
from tests.backend.engines import tiny_models

CPU = Placement("cpu", "float32")
WRITERS: dict[str, Callable[[Path], Path]] = {
    "sam": tiny_models.write_sam,
    "sam_hq": tiny_models.write_sam_hq,
    "sam2": tiny_models.write_sam2,
    "sam2_video": tiny_models.write_sam2_video,
    "edgetam": tiny_models.write_edgetam,
}
SHAPES = [(64, 64), (48, 90), (130, 31), (1, 1), (1, 40), (600, 801)]
NOWHERE = np.zeros((0, 2)), np.zeros(0, np.int64)


@pytest.fixture(scope="module", params=WRITERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return WRITERS[request.param](tmp_path_factory.mktemp(request.param, numbered=False))


@pytest.fixture(scope="module")
def network(folder: Path) -> PromptableNetwork:
    return load_network(folder, CPU)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder)


class Reference:
    """transformers' own way from an image and prompts to full-size logits."""

    def __init__(self, folder: Path) -> None:
        import transformers

        kind = folder.name
        name = {"sam": "Sam", "sam_hq": "SamHQ", "sam2": "Sam2", "sam2_video": "Sam2", "edgetam": "EdgeTam"}[kind]
        self.model = getattr(transformers, f"{name}Model").from_pretrained(folder).eval()
        side = tiny_models.SIDE
        if kind in ("sam", "sam_hq"):
            images = transformers.SamImageProcessor(size={"longest_edge": side}, pad_size={"height": side, "width": side})
            self.processor = getattr(transformers, f"{name}Processor")(images)
        else:
            self.processor = transformers.Sam2Processor(
                transformers.Sam2ImageProcessor(size={"height": side, "width": side}), target_size=side
            )

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8], *, masks: torch.Tensor | None = None, **prompts: Any) -> tuple[Any, Any]:
        multimask = prompts.pop("multimask_output")
        inputs = self.processor(images=image, return_tensors="pt", input_data_format="channels_last", **prompts)
        sizes = [inputs[name] for name in ("original_sizes", "reshaped_input_sizes") if name in inputs]
        names = ("pixel_values", "input_points", "input_labels", "input_boxes")
        wanted = {name: inputs[name] for name in names if name in inputs}
        floats = {name: value.float() if value.is_floating_point() else value for name, value in wanted.items()}
        found = self.model(**floats, input_masks=masks, multimask_output=multimask)
        (full,) = self.processor.post_process_masks(found.pred_masks, *sizes, binarize=False)
        return found, full


def picture(shape: tuple[int, int]) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)


@torch.inference_mode()
def ask(network: PromptableNetwork, image: NDArray[np.uint8], *objects: Geometry) -> tuple[Any, Any]:
    """The candidates of objects, and their full-size logits ``(N, K, H, W)``."""
    (embeddings,) = network.encode(network.frame.pixels(image, network.device)[None])
    found = decode_objects(network, embeddings, objects, size_of(image), chunk=4)
    return found, torch.stack([network.frame.resize(candidates.logits[0], size_of(image)) for candidates in found])


def assert_same(ours: tuple[Any, Any], theirs: tuple[Any, Any]) -> None:
    for row, candidates in enumerate(ours[0]):
        torch.testing.assert_close(candidates.logits[0], theirs[0].pred_masks[0, row], atol=1e-4, rtol=0)
        torch.testing.assert_close(candidates.iou_predictions[0], theirs[0].iou_scores[0, row], atol=1e-4, rtol=0)
    torch.testing.assert_close(ours[1], theirs[1], atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_a_click_has_the_same_three_candidates(
    network: PromptableNetwork, reference: Reference, shape: tuple[int, int]
) -> None:
    image, xy = picture(shape), [shape[1] * 0.4, shape[0] * 0.6]
    ours = ask(network, image, Geometry(np.array([xy]), np.array([1])))
    theirs = reference(image, input_points=[[[xy]]], input_labels=[[[1]]], multimask_output=True)
    assert ours[0][0].logits.shape[1] == 3
    assert_same(ours, theirs)


@pytest.mark.parametrize("shape", SHAPES)
def test_clicks_of_both_signs_in_a_box_have_the_same_mask(
    network: PromptableNetwork, reference: Reference, shape: tuple[int, int]
) -> None:
    image, (height, width) = picture(shape), shape
    points, box = [[width * 0.5, height * 0.5], [width * 0.1, height * 0.9]], [width * 0.2, 0.0, float(width), height * 0.8]
    ours = ask(network, image, Geometry(np.array(points), np.array([1, 0]), np.array(box)))
    prompts = {"input_points": [[points]], "input_labels": [[[1, 0]]], "input_boxes": [[box]]}
    assert_same(ours, reference(image, **prompts, multimask_output=False))


def test_several_boxes_at_once_have_the_same_masks(network: PromptableNetwork, reference: Reference) -> None:
    image, boxes = picture((48, 90)), [[5.0, 5, 40, 30], [50.0, 10, 88, 47], [0.0, 0, 90, 48]]
    ours = ask(network, image, *(Geometry(*NOWHERE, box=np.array(box)) for box in boxes))
    assert_same(ours, reference(image, input_boxes=[boxes], multimask_output=False))


def test_a_second_round_with_the_earlier_logits_has_the_same_mask(network: PromptableNetwork, reference: Reference) -> None:
    image = picture((48, 90))
    first, _ = reference(image, input_points=[[[[30.0, 20]]]], input_labels=[[[1]]], multimask_output=True)
    earlier = first.pred_masks[0, 0, 1]
    points, labels = [[30.0, 20], [60.0, 40]], [1, 0]
    ours = ask(network, image, Geometry(np.array(points), np.array(labels), logits=earlier))
    theirs = reference(
        image, input_points=[[points]], input_labels=[[labels]], masks=earlier[None, None], multimask_output=False
    )
    assert_same(ours, theirs)


def test_objects_asked_together_answer_as_they_do_alone(network: PromptableNetwork) -> None:
    image = picture((48, 90))
    one = Geometry(np.array([[30.0, 20]]), np.array([1]))
    objects = [
        one,
        Geometry(np.array([[10.0, 20], [50, 3]]), np.array([1, 1])),
        Geometry(np.array([[10.0, 20], [50, 3], [70, 40]]), np.array([1, 0, 1])),
        Geometry(*NOWHERE, box=np.array([5.0, 5, 40, 30])),
        one,
    ]
    together = ask_each(network, image, objects, chunk=4)
    for item, candidates in zip(objects, together, strict=True):
        (alone,) = ask_each(network, image, [item], chunk=1)
        torch.testing.assert_close(candidates.logits, alone.logits, atol=1e-4, rtol=0)


@torch.inference_mode()
def ask_each(network: PromptableNetwork, image: NDArray[np.uint8], objects: list[Geometry], chunk: int) -> Any:
    (embeddings,) = network.encode(network.frame.pixels(image, network.device)[None])
    return decode_objects(network, embeddings, objects, size_of(image), chunk)


def test_images_encoded_together_are_encoded_as_they_are_alone(network: PromptableNetwork) -> None:
    """But for rounding: on some processors it differs with the size of the batch, and the norms of these small networks make it
    larger where a picture is of one colour.
    """
    pixels = torch.stack([network.frame.pixels(picture(shape), network.device) for shape in SHAPES])
    with torch.inference_mode():
        together = network.encode(pixels)
        for row, embeddings in enumerate(together):
            (alone,) = network.encode(pixels[row : row + 1])
            for name, tensor in embeddings.items():
                torch.testing.assert_close(tensor, alone[name], atol=2e-3, rtol=1e-3)


def test_a_mask_shrinks_to_the_cells_of_the_frame_that_it_covers(network: PromptableNetwork) -> None:
    mask = np.zeros((50, 100), np.bool_)
    mask[:, 50:] = True
    cells = network.frame.shrink(mask, network.low_res_side)
    back = network.frame.resize(cells[None] - 0.5, Size(50, 100))[0] > 0
    assert (back.numpy() == mask).mean() > 0.97


def test_a_folder_without_a_model_is_a_setup_error(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="not the folder of a model"):
        load_network(tmp_path, CPU)


def test_a_model_of_another_family_is_a_setup_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(SetupError, match="'bert' model; known are"):
        load_network(tmp_path, CPU)


def test_incomplete_weights_are_a_setup_error_and_not_a_network_with_random_parts(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = tiny_models.write_sam(tmp_path) / "model.safetensors"
    weights = load_file(file)
    weights.pop("mask_decoder.iou_token.weight")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(SetupError, match=r"incomplete: 1 parameters are missing, such as mask_decoder\.iou_token"):
        load_network(tmp_path, CPU)


def test_a_transformers_that_is_too_old_for_a_network_is_a_setup_error() -> None:
    with pytest.raises(SetupError, match=r"needs Sam9Model of transformers: run .*pip install .*\[engines\]"):
        import_class("Sam9Model")
