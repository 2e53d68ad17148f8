"""Interaction: one answer to what an annotator draws and types on one image, with what is remembered of earlier rounds."""

from __future__ import annotations

import numpy as np

from backend.caches import Bounds, SingleFlight
from backend.images import ImageSource
from backend.labeling import drop_known
from backend.labelstudio.project_options import ProjectOptions
from backend.labelstudio.request.examples import masks_of
from backend.labelstudio.request.joining import join
from backend.labelstudio.request.request import InteractionRequest
from backend.serving.history import History
from backend.serving.service import EngineSource, Finding, Found, failure_of, names_of, segment
from backend.values.session import ForPrompts
from prompts.geometry import BoolArray
from prompts.kinds import KeyedImage, PromptSet

NOTHING_MARKED = (
    'nothing is marked that "this" could mean: draw it with a label or a tool that has a role in the labelling config, and '
    "wait five seconds until the page has saved it"
)


class Interactor:
    """Answers prompts. Identical requests at the same time, which one page may send, are answered together."""

    def __init__(self, engine: EngineSource, images: ImageSource, options: ProjectOptions, history: History) -> None:
        self._engine = engine
        self._images = images
        self._options = options
        self._history = history
        self._under_way: SingleFlight[Finding] = SingleFlight(Bounds(0, lambda known: known.nbytes))

    def find(self, task: InteractionRequest) -> Finding:
        """What the prompts of a request mean on its image."""
        key = f"{self._engine.version}/{self._options.of(task.project)}/{task.fingerprint()}"
        return self._under_way.do(key, lambda: self._find_or_say_why(task))

    def _find_or_say_why(self, task: InteractionRequest) -> Finding:
        try:
            return self._find(task)
        except Exception as error:
            return Finding(self._engine.version, failure=failure_of(error, task))

    def _find(self, task: InteractionRequest) -> Finding:
        image = self._images.load(task.image_url, task.project, task.task_id or None)
        self._history.remember_shown(task, image)
        seen = self._history.notes(task)
        task = join(task, seen)
        prompts = PromptSet((*task.prompts(image.size).prompts, *self._history.examples(task, image)))
        if not len(prompts):
            return Finding(self._engine.version, message=NOTHING_MARKED if task.typed.asks_for_marked else "")
        wanted = self._options.of(task.project)
        done, segmenter = segment(self._engine, self._question(task, image, prompts, wanted.alternatives))
        version = segmenter.engine.version
        self._history.remember_round(task, seen, version, done)
        masks = drop_known(done.masks, _finished(task, image))
        return Finding(version, (Found(task, masks, names_of(masks, task, segmenter)),), wanted.form)

    def _question(self, task: InteractionRequest, image: KeyedImage, prompts: PromptSet, alternatives: int) -> ForPrompts:
        memory = self._history.last_answer(task, self._engine.version, prompts)
        return ForPrompts(image, prompts, task.vocabulary, task.answer_label, memory, alternatives)


def _finished(task: InteractionRequest, image: KeyedImage) -> BoolArray:
    """The masks ``(M, H, W)`` that the annotation has already, where more of them are wanted."""
    found = [mask for _, mask in masks_of(task.draft.results, image.size)]
    return np.stack(found) if found else np.zeros((0, image.size.height, image.size.width), np.bool_)
