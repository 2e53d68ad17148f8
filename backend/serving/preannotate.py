"""Pre-annotation: what the label names of a project find on all images of a task, before anybody has drawn anything."""

from __future__ import annotations

import logging

from backend.caches import Bounds, SingleFlight
from backend.images import ImageSource
from backend.labelstudio.project_options import Mode, PreannotationOptions, ProjectOptions
from backend.labelstudio.request.request import PreannotationRequest
from backend.serving.service import EngineSource, Finding, Found, failure_of, names_of, segment
from backend.values.session import ForEverything, ForNames
from prompts.kinds import KeyedImage
from prompts.phrases import Vocabulary

log = logging.getLogger(__name__)

MOST_KEPT_BYTES = 64 << 20
KEPT_LIFETIME_S = 600.0
"""When a batch is cut at the deadline, Label Studio asks for its tasks again one by one: those already answered are kept."""


def question_about(vocabulary: Vocabulary, image: KeyedImage, wanted: PreannotationOptions) -> ForNames | ForEverything:
    """The question about an image on which nothing was drawn or typed.

    Whoever asks answers with ``wanted.apply`` of the masks and with ``names_of`` them.
    """
    return ForEverything(image, vocabulary) if wanted.mode is Mode.EVERYTHING else ForNames(image, vocabulary)


class Preannotator:
    """Answers tasks by the names of their labels. Identical requests at the same time are answered together, and what was found
    is kept for a while.
    """

    def __init__(self, engine: EngineSource, images: ImageSource, options: ProjectOptions) -> None:
        self._engine = engine
        self._images = images
        self._options = options
        self._known: SingleFlight[Finding] = SingleFlight(
            Bounds(MOST_KEPT_BYTES, lambda known: known.nbytes, KEPT_LIFETIME_S, lambda known: known.is_worth_keeping)
        )

    def find(self, task: PreannotationRequest) -> Finding:
        """What is found on the images of a task; a failure only where none of them can be answered."""
        key = f"{self._engine.version}/{self._options.of(task.project)}/{task.fingerprint()}"
        return self._known.do(key, lambda: self._find(task))

    def _find(self, task: PreannotationRequest) -> Finding:
        found: list[Found] = []
        failures: list[str] = []
        version, wanted = self._engine.version, self._options.of(task.project)
        for each in task.images():
            try:
                image = self._images.load(each.image_url, each.project, each.task_id or None)
                done, segmenter = segment(self._engine, question_about(each.vocabulary, image, wanted))
                masks = wanted.apply(done.masks)
                found.append(Found(each, masks, names_of(masks, each, segmenter)))
                version = segmenter.engine.version
            except Exception as error:
                failures.append(failure_of(error, each))
        return Finding(version, tuple(found), wanted.form, failure="" if found else failures[0])
