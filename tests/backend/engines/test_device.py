"""Full devices, played by one that holds no data: what does not fit there is computed on the CPU, with the same answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backend.engines import device as pretrained
from backend.engines.base import Engine
from backend.engines.catalogue import Placement, find_engine
from backend.engines.device import Chunks
from backend.engines.sam import engine as networks
from backend.engines.sam import references
from backend.engines.sam.detectors import Detector
from backend.engines.sam.references import Dino
from backend.engines.sam.transforms import FramedPrompts, MaskCandidates, PromptableNetwork
from backend.segmenter import Segmenter
from backend.values.errors import SetupError
from backend.values.features import FeatureCache
from backend.values.session import ForPrompts, Round
from prompts.encoders import with_cpu_fallback
from prompts.encoders.openclip import OpenClip
from prompts.geometry import size_of
from prompts.kinds import BoxPrompt, KeyedImage, PointPrompt, PromptSet, ReferencePrompt, TextPrompt
from tests.backend.engines import tiny_bundles, tiny_models
from tests.backend.pictures import two_red_discs, two_shapes

ELSEWHERE = torch.device("meta")
CPU = torch.device("cpu")


class Full:
    """A network on a device that is out of memory whenever it is asked for anything; on the CPU it is the real one."""

    def __init__(self, real: PromptableNetwork) -> None:
        self.real = real
        self.device = ELSEWHERE
        self.frame, self.low_res_side = real.frame, real.low_res_side
        self.refused: list[int] = []

    def to(self, device: torch.device) -> None:
        self.device = device

    def encode(self, pixels: Tensor) -> list[dict[str, Tensor]]:
        self._refuse(len(pixels))
        return self.real.encode(pixels)

    def decode(self, embeddings: Mapping[str, Tensor], prompts: FramedPrompts) -> MaskCandidates:
        self._refuse(len(prompts.boxes if prompts.boxes is not None else ()))
        return self.real.decode(embeddings, prompts)

    def _refuse(self, count: int) -> None:
        if self.device != CPU:
            self.refused.append(count)
            raise torch.OutOfMemoryError("CUDA out of memory")


def load(folder: Path) -> Engine:
    return find_engine("edgetam-cpu").load(folder, Placement("cpu", "float32"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundles.write_bundle("edgetam-cpu", tmp_path_factory.mktemp("bundle"))


def answer(engine: Engine, *prompts: Any) -> Round:
    (done,) = Segmenter(engine, FeatureCache(1 << 26)).segment(
        [ForPrompts(KeyedImage.of(two_shapes().image), PromptSet(prompts))]
    )
    assert isinstance(done, Round), done
    return done


@pytest.mark.slow
def test_a_full_device_means_smaller_chunks_then_the_cpu_and_the_same_masks(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = (BoxPrompt((10, 20, 50, 60)), BoxPrompt((70, 20, 110, 60)), BoxPrompt((20, 5, 90, 70)))
    roomy = load(bundle)
    truth, (features,) = answer(roomy, *prompts), roomy.decoder.encode_images([two_shapes().image])
    full = Full(networks.load_network(bundle / "decoder", Placement("cpu", "float32")))
    monkeypatch.setattr("backend.engines.sam.engine.load_network", lambda folder, placement: full)
    engine = load(bundle)
    engine.decoder.encode_images = lambda images: [features]  # type: ignore[method-assign]
    engine.decoder._parts.decoding.chunks.most = 4  # type: ignore[attr-defined]
    done = answer(engine, *prompts)
    assert np.array_equal(done.masks.masks, truth.masks.masks)
    assert full.refused == [3, 1]
    assert full.device == CPU
    assert "out of memory with 3 at a time; going on with 1" in caplog.text
    assert "Full: out of memory on the device meta; going on with the CPU, which is slower" in caplog.text


@pytest.mark.slow
def test_an_image_that_does_not_fit_is_encoded_on_the_cpu_and_so_are_those_after_it(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = answer(load(bundle), PointPrompt((85, 40)))
    full = Full(networks.load_network(bundle / "decoder", Placement("cpu", "float32")))
    monkeypatch.setattr("backend.engines.sam.engine.load_network", lambda folder, placement: full)
    engine = load(bundle)
    for _ in range(2):
        assert np.array_equal(answer(engine, PointPrompt((85, 40))).masks.masks, truth.masks.masks)
    assert full.refused == [1]


def test_a_full_cpu_is_an_error_and_no_endless_retreat() -> None:
    class Hungry:
        device = CPU

        def to(self, device: torch.device) -> None:
            raise AssertionError("there is nowhere to go")

        @with_cpu_fallback
        def think(self) -> None:
            raise torch.OutOfMemoryError("full")

    def compute(chunk: Sequence[int]) -> list[int]:
        raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError):
        Chunks(Hungry()).run([1, 2], compute)
    with pytest.raises(torch.OutOfMemoryError):
        Hungry().think()


class FullFor:
    """Makes networks of a class be out of memory until they have moved to the CPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, network_class: Any) -> None:
        self.moved: list[torch.device] = []
        monkeypatch.setattr(network_class, "device", property(lambda network: self.moved[-1] if self.moved else ELSEWHERE))
        monkeypatch.setattr(network_class, "to", lambda network, device: self.moved.append(device))

    def guard(self, monkeypatch: pytest.MonkeyPatch, model: Any, name: str) -> None:
        real = getattr(model, name)

        def guarded(*arguments: Any, **named: Any) -> Any:
            if not self.moved:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(*arguments, **named)

        monkeypatch.setattr(model, name, guarded)


@pytest.mark.parametrize("what", ["phrases", "crops", "patches"])
def test_a_clip_whose_device_is_full_goes_on_with_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    clip = OpenClip.load(tiny_models.write_clip(tmp_path / "clip"), CPU, 64)
    ask = {
        "phrases": lambda: clip.encode_text(["cup", "cat"]),
        "crops": lambda: clip.encode_crops([two_shapes().image]),
        "patches": lambda: clip.encode_patches(two_shapes().image),
    }[what]
    truth = ask()
    clip._phrase.cache_clear()
    full = FullFor(monkeypatch, OpenClip)
    for owner, name in ((clip._model, "encode_text"), (clip._model, "encode_image"), (clip, "_before_last")):
        full.guard(monkeypatch, owner, name)
    assert torch.equal(ask(), truth)
    assert full.moved == [CPU]
    assert "OpenClip: out of memory" in caplog.text


def test_a_dino_whose_device_is_full_goes_on_with_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = references.load_dino(tiny_models.write_dino(tmp_path / "dino"), Placement("cpu", "float32"))
    truth = network.encode_patches(two_shapes().image)
    full = FullFor(monkeypatch, Dino)
    full.guard(monkeypatch, references, "resize_image")
    assert torch.equal(network.encode_patches(two_shapes().image), truth)
    assert full.moved == [CPU]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_sam3_whose_device_is_full_finds_words_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = find_engine("sam3").load(tiny_bundles.write_bundle("sam3", tmp_path), Placement("cpu", "float32"))
    here, there = two_shapes(), two_red_discs()
    prompts = (TextPrompt("blue"), ReferencePrompt(KeyedImage.of(there.image), there.shapes["blue square"]))
    (features,) = engine.decoder.encode_images([here.image])
    network = engine.decoder._parts.decoding.network  # type: ignore[attr-defined]
    truth = network.find(features.tensors, "blue")
    full = FullFor(monkeypatch, type(network))
    full.guard(monkeypatch, network._detector.model, "forward")
    found = network.find(features.tensors, "blue")
    assert torch.equal(found.logits, truth.logits)
    assert full.moved == [CPU]
    assert answer(engine, *prompts).masks.size == size_of(here.image)


def test_every_detector_can_retreat() -> None:
    from backend.engines.sam import detectors as grounding_dino
    from backend.engines.sam import detectors as omdet
    from backend.engines.sam import detectors as owlv2

    for detector in (grounding_dino.GroundingDino, omdet.OmDet, owlv2.Owlv2):
        assert issubclass(detector, Detector)


class Processor:
    """Plays a machine with or without a GPU, and with or without bfloat16."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, gpu: bool, bfloat16: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or bfloat16)
        for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
            monkeypatch.setattr(torch.cpu, probe, lambda: bfloat16)


@pytest.mark.parametrize(
    ("gpu", "bfloat16", "expected"),
    [
        (False, False, ("cpu", torch.float32)),
        (False, True, ("cpu", torch.float32)),
        (True, False, ("cuda", torch.float32)),
        (True, True, ("cuda", torch.bfloat16)),
    ],
)
def test_auto_takes_a_gpu_and_bfloat16_only_where_the_gpu_computes_it_itself(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, bfloat16: bool, expected: tuple[str, torch.dtype]
) -> None:
    Processor(monkeypatch, gpu=gpu, bfloat16=bfloat16)
    device, dtype = pretrained.resolve(Placement())
    assert (device.type, dtype) == expected


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_bfloat16_by_setting_is_refused_where_it_would_be_imitated(monkeypatch: pytest.MonkeyPatch, device: Any) -> None:
    Processor(monkeypatch, gpu=True, bfloat16=True)
    assert pretrained.resolve(Placement(device, "bfloat16")) == (torch.device(device), torch.bfloat16)
    Processor(monkeypatch, gpu=True, bfloat16=False)
    with pytest.raises(SetupError, match=f"the {device} here has no bfloat16 instructions"):
        pretrained.resolve(Placement(device, "bfloat16"))


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Processor(monkeypatch, gpu=False, bfloat16=False)
    with pytest.raises(SetupError, match="there is no cuda device here"):
        pretrained.resolve(Placement("cuda"))


def test_after_a_retreat_to_a_cpu_without_bfloat16_images_are_encoded_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    for bfloat16, expected in ((True, torch.bfloat16), (False, torch.float32)):
        Processor(monkeypatch, gpu=False, bfloat16=bfloat16)
        with pretrained.computing(CPU, torch.bfloat16):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected
