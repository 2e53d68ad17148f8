"""Pre-annotation: what the labels of a project find on all images of a task, before anybody has drawn anything."""

from __future__ import annotations

import logging

from backend.caches import Bounds, SingleFlight
from backend.images.limits import ImageSource
from backend.labelstudio.answer import Found, names_of
from backend.labelstudio.project_options import ProjectOptions, question_about
from backend.labelstudio.request.request import PreannotationRequest
from backend.segmenter import EngineSource
from backend.serving.learning import Learning
from backend.serving.learnt import Learnt
from backend.serving.service import Finding, failure_of, segment

log = logging.getLogger(__name__)

MOST_KEPT_BYTES = 64 << 20
KEPT_LIFETIME_S = 600.0
"""When a batch is cut at the deadline, Label Studio asks for its tasks again one by one: those already answered are kept."""


class Preannotator:
    """Answers tasks by their labels: by their names, and by what was accepted under them. Identical requests at the same time
    are answered together, and what was found is kept for a while.
    """

    def __init__(self, engine: EngineSource, images: ImageSource, options: ProjectOptions, learning: Learning) -> None:
        self._engine = engine
        self._images = images
        self._options = options
        self._learning = learning
        self._known: SingleFlight[Finding] = SingleFlight(
            Bounds(MOST_KEPT_BYTES, lambda known: known.nbytes, KEPT_LIFETIME_S, lambda known: known.is_worth_keeping)
        )

    def find(self, task: PreannotationRequest) -> Finding:
        """What is found on the images of a task; a failure only where none of them can be answered."""
        learnt = self._learning.about(task, self._engine)
        key = f"{self._engine.version}/{self._options.of(task.project)}/{task.fingerprint()}/{learnt.digest}"
        return self._known.do(key, lambda: self._find(task, learnt))

    def _find(self, task: PreannotationRequest, learnt: Learnt) -> Finding:
        found: list[Found] = []
        failures: list[str] = []
        version, wanted = self._engine.version, self._options.of(task.project)
        taught = learnt.besides(task.task_id)
        for each in task.images():
            try:
                image = self._images.load(each.image_url, each.project, each.task_id or None)
                done, segmenter = segment(self._engine, question_about(each.vocabulary, image, wanted, taught))
                masks = wanted.apply(done.masks)
                found.append(Found(each, masks, names_of(masks, each, segmenter.rank_names)))
                version = segmenter.engine.version
            except Exception as error:
                failures.append(failure_of(error, each))
        return Finding(version, tuple(found), wanted.form, failure="" if found else failures[0])
