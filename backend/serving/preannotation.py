"""What a pre-annotation asks and tells about an image, whether a request of Label Studio or a bulk run wants it."""

from __future__ import annotations

from backend.labelstudio.answer import Names
from backend.labelstudio.request.request import TaskRequest
from backend.options import Mode, Wanted
from backend.segmenter import Segmenter
from backend.values.masks import MaskSet
from backend.values.session import ForEverything, ForNames
from prompts.kinds import KeyedImage


def question_about(task: TaskRequest, image: KeyedImage, wanted: Wanted) -> ForNames | ForEverything:
    """The question about one image of a task on which nothing was drawn or typed.

    What is answered is ``wanted.apply`` of the masks, written in ``wanted.form`` with ``names_of`` them.
    """
    return ForEverything(image, task.vocabulary) if wanted.mode is Mode.EVERYTHING else ForNames(image, task.vocabulary)


def names_of(masks: MaskSet, task: TaskRequest, segmenter: Segmenter) -> Names:
    """For each tag of the labelling config that names regions the names of every row, the likeliest first."""
    namings = task.config.namings_of(task.image_tag)
    return {naming.name: segmenter.rank_names(masks, naming.vocabulary) for naming in namings}
