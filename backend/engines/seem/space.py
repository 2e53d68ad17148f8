"""SEEM's own joint space, and a question to its decoder: phrases, drawings, references and memory as tokens that it reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from backend.engines.seem.inputs import QUICK, InputFrame, InputSize, SeemImage, SeemNetwork, VocabularyReader
from backend.engines.seem.predictor import Ask
from backend.engines.seem.wiring import Group, MaskMemory, VisualTokens, Wiring, merge_tokens, repeat_tokens, stack_tokens
from backend.values.features import ImageFeatures
from prompts.encoders import with_cpu_fallback
from prompts.encoders.seem import PhraseTokens, SeemTextEncoder
from prompts.kinds import ObjectMemory, PointPrompt, PromptSet, ReferencePrompt
from prompts.memory import owner_among
from prompts.phrases import Vocabulary
from prompts.space import FeatureMap, JointSpace, PromptTokens


@dataclass(frozen=True, slots=True)
class SeemTokens:
    """What SEEM's decoder reads: the tokens of the positive ``phrases``, and of the reference regions, each region a prompt of
    its own, None where there are none; and the vectors ``(N, D)`` of the negative phrases.
    """

    phrases: tuple[str, ...]
    negative_text: Tensor
    read: PhraseTokens | None
    shown: VisualTokens | None
    negative_shown: VisualTokens | None

    def on(self, device: torch.device) -> SeemTokens:
        """The same with its tokens on a device, to which its decoder may have moved after they were read."""
        tokens = {name: getattr(self, name) for name in ("read", "shown", "negative_shown")}
        return replace(self, **{name: each.to(device) for name, each in tokens.items() if each is not None})


class SeemSpace(JointSpace):
    """A joint space that speaks to SEEM's decoder in tokens and to everybody else in unit vectors."""

    def __init__(self, name: str, text: SeemTextEncoder, vocabulary: VocabularyReader, sight: Sight) -> None:
        super().__init__(name, text, sight.logit_scale)
        self._text = text
        self._vocabulary = vocabulary
        self._sight = sight

    def read(self, tokens: PromptTokens) -> SeemTokens:
        """The phrases and references of a prompt set as SEEM's decoder reads them."""
        shown: dict[bool, list[VisualTokens]] = {True: [], False: []}
        for prompt, there in tokens.references:
            if prompt.mask.any():
                shown[prompt.positive].append(self._sight.look(there, prompt))
        return SeemTokens(
            phrases=tokens.phrases,
            negative_text=tokens.negative_text,
            read=self._text.read(tokens.phrases) if tokens.phrases else None,
            shown=stack_tokens(shown[True]) if shown[True] else None,
            negative_shown=stack_tokens(shown[False]) if shown[False] else None,
        )

    def embed_vocabulary(self, vocabulary: Vocabulary) -> Tensor:
        """Unit vectors ``(L, D)``, one for each label: the mean of its phrases in several templates, kept on disk."""
        return self._vocabulary.read([entry.phrases for entry in vocabulary.entries], QUICK)


class Sight:
    """The visual sampler of a network, for regions of encoded images."""

    def __init__(self, network: SeemNetwork, limits: InputSize) -> None:
        self._network = network
        self._limits = limits

    @property
    def logit_scale(self) -> float:
        return float(self._network.predictor.lang_encoder.logit_scale.exp())

    @property
    def device(self) -> torch.device:
        return self._network.device

    def to(self, device: torch.device) -> None:
        """Move all weights."""
        self._network.to(device)

    @with_cpu_fallback
    def look(self, features: FeatureMap, reference: ReferencePrompt) -> VisualTokens:
        """The tokens of one region of another image. Raises TypeError for features of another engine."""
        if not isinstance(features, ImageFeatures):
            raise TypeError(f"expected ImageFeatures of SEEM, got {type(features).__name__}")
        image = SeemImage.unpack(features, self._limits, self._network.device)
        mask = image.frame.place(reference.mask).to(image.pixels.mask_features.device)[None]
        return self._network.predictor.sample(image.pixels, (mask, torch.zeros_like(mask)))


@dataclass(frozen=True, slots=True)
class Drawings:
    """n drawn objects: ``positive`` and ``negative (n, H, W)`` bool in the padded frame, and the previous round about one of
    them.
    """

    positive: Tensor
    negative: Tensor
    memory: MaskMemory | None

    def __len__(self) -> int:
        return len(self.positive)


def render(prompts: PromptSet, frame: InputFrame, memory: ObjectMemory | None, device: torch.device) -> Drawings:
    """Everything that was drawn, each object (see PromptSet.objects) on its own.

    Memory belongs to the object that it is of (see prompts.memory.owner_of). An object that was only told what it is not
    is shown its previous mask instead of a drawing. Objects that nothing shows are left out.
    """
    objects = list(prompts.objects())
    empty = torch.zeros(0, frame.padded.height, frame.padded.width, dtype=torch.bool)
    positive = torch.stack([_region(each, frame, positive=True) for each in objects]) if objects else empty
    negative = torch.stack([_region(each, frame, positive=False) for each in objects]) if objects else empty
    remembered = None
    if memory is not None and objects:
        logits = torch.tensor(memory.low_res_logits, dtype=torch.float32)
        before = _enlarge(logits, frame)
        owner = owner_among([drawing.numpy() for drawing in positive | negative], before.numpy())
        if owner is not None:
            if not positive[owner].any():
                positive[owner] = before & ~negative[owner]
            remembered = (logits, owner)
    return _drop_empty(positive, negative, remembered, device)


def _region(prompts: PromptSet, frame: InputFrame, *, positive: bool) -> Tensor:
    """The drawn prompts of one sign as one mask ``(H, W)`` of the input."""
    regions = PromptSet(tuple(prompt for prompt in prompts.drawn if not isinstance(prompt, PointPrompt)))
    clicks = prompts.point_coords[prompts.point_labels == int(positive)]
    return frame.place(regions.region(frame.size, positive=positive)) | frame.place_clicks(clicks)


def _enlarge(logits: Tensor, frame: InputFrame) -> Tensor:
    """The previous mask ``(H, W)`` bool, from its low-resolution logits."""
    size = (frame.padded.height, frame.padded.width)
    return functional.interpolate(logits[None, None], size, mode="bilinear")[0, 0] > 0


def _drop_empty(positive: Tensor, negative: Tensor, remembered: tuple[Tensor, int] | None, device: torch.device) -> Drawings:
    """Only the objects that have positive pixels, and the memory if its object is one of them."""
    kept = positive.any(dim=2).any(dim=1).nonzero()[:, 0].tolist()
    memory = None
    if remembered is not None and remembered[1] in kept:
        owner = torch.tensor([kept.index(remembered[1])], device=device)
        memory = MaskMemory(remembered[0][None].to(device), owner)
    return Drawings(positive[kept].to(device), negative[kept].to(device), memory)


class Asking(Protocol):
    """How a decoder is asked. Each drawing, phrase or reference is one prompt, and answers come prompt by prompt."""

    to_phrases: Group
    """The queries that answer phrases."""
    to_regions: Group
    """The queries that answer drawings and references."""

    def drawn(self, tokens: VisualTokens, memory: MaskMemory | None, asked: SeemTokens) -> Ask:
        """Ask for n drawn objects, each helped by whatever was said."""
        ...

    def named(self, read: PhraseTokens) -> Ask:
        """Ask for each of n phrases."""
        ...

    def shown(self, shown: VisualTokens, read: PhraseTokens | None) -> Ask:
        """Ask for what looks like each of n references, helped by the phrases."""
        ...

    def prefer(self, fit: Tensor, chance: Tensor) -> Tensor:
        """Which of the queries for a drawing is best ``(Q,)``, from how they fit the drawing and the phrases ``(Q,)``."""
        ...


class SeparateAsking:
    """SEEM v0 and v1: phrases and regions have queries of their own, which never see each other."""

    to_phrases = Group.GROUNDING
    to_regions = Group.SPATIAL

    def __init__(self, wiring: Wiring, queries: int) -> None:
        self._wiring = wiring
        self._queries = queries

    def drawn(self, tokens: VisualTokens, memory: MaskMemory | None, asked: SeemTokens) -> Ask:
        if asked.shown is not None:
            tokens = merge_tokens(tokens, repeat_tokens(asked.shown, len(tokens)))
        return Ask(drawn=tokens, spatial=self._wiring.spatial_queries(len(tokens), self._queries), memory=memory)

    def named(self, read: PhraseTokens) -> Ask:
        return Ask(phrases=[read.of(row) for row in range(len(read.lengths))])

    def shown(self, shown: VisualTokens, read: PhraseTokens | None) -> Ask:
        """Every learned query looks for the reference, also where a drawing gets a few: there can be many answers."""
        return Ask(drawn=shown, spatial=torch.arange(self._queries).repeat(len(shown)))

    def prefer(self, fit: Tensor, chance: Tensor) -> Tensor:
        return fit * chance


class ComposedAsking:
    """The wiring of the official demo: the object queries look at everything that was said, drawn and shown."""

    to_phrases = Group.OBJECT
    to_regions = Group.OBJECT

    def drawn(self, tokens: VisualTokens, memory: MaskMemory | None, asked: SeemTokens) -> Ask:
        count = len(tokens)
        shown = repeat_tokens(asked.shown, count) if asked.shown is not None else None
        return Ask(objects=count, phrases=_together(asked.read) * count, drawn=tokens, reference=shown)

    def named(self, read: PhraseTokens) -> Ask:
        return Ask(objects=len(read.lengths), phrases=[read.of(row) for row in range(len(read.lengths))])

    def shown(self, shown: VisualTokens, read: PhraseTokens | None) -> Ask:
        return Ask(objects=len(shown), phrases=_together(read) * len(shown), reference=shown)

    def prefer(self, fit: Tensor, chance: Tensor) -> Tensor:
        """The phrases already had their say inside the network."""
        return fit


def how_to_ask(wiring: Wiring, queries: int) -> Asking:
    """The way to ask a decoder with this wiring and so many learned queries."""
    return ComposedAsking() if wiring.composes else SeparateAsking(wiring, queries)


def _together(read: PhraseTokens | None) -> list[Tensor]:
    """All phrases as one row of tokens; an empty list without any."""
    return [torch.cat([read.of(row) for row in range(len(read.lengths))])] if read is not None else []
