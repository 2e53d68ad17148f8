"""What a pre-annotation asks and tells about an image, whether a request of Label Studio or a bulk run wants it."""

from __future__ import annotations

from backend.labelstudio.answer import Names
from backend.labelstudio.request.request import TaskRequest
from backend.options import Mode, Wanted
from backend.segmenter import Find, Question, Segmenter
from backend.values.masks import MaskSet
from prompts.kinds import Image, PromptSet


def question_about(task: TaskRequest, image: Image, wanted: Wanted) -> Question:
    """The question about one image ``(H, W, 3)`` of a task on which nothing was drawn or typed.

    What is answered is ``wanted.apply`` of the masks, written in ``wanted.form`` with ``names_of`` them.
    """
    find = Find.EVERYTHING if wanted.mode is Mode.EVERYTHING else Find.NAMED
    return Question(image, PromptSet(), task.vocabulary, find=find)


def names_of(masks: MaskSet, task: TaskRequest, segmenter: Segmenter) -> Names:
    """For each tag of the labelling config that names regions the names of every row, the likeliest first."""
    namings = task.config.namings_of(task.image_tag)
    return {naming.name: segmenter.rank_names(masks, naming.vocabulary) for naming in namings}
