"""What a pre-annotation asks about an image, whether a request of Label Studio or a bulk run wants it."""

from __future__ import annotations

from backend.labelstudio.requests import TaskRequest
from backend.modes import Mode, Wanted
from backend.segmenter import Find, Question
from prompts.kinds import Image, PromptSet


def question_about(task: TaskRequest, image: Image, wanted: Wanted) -> Question:
    """The question about one image ``(H, W, 3)`` of a task on which nothing was drawn or typed.

    What is answered is ``wanted.apply`` of the masks, written in ``wanted.form``.
    """
    find = Find.EVERYTHING if wanted.mode is Mode.EVERYTHING else Find.NAMED
    return Question(image, PromptSet(), task.vocabulary, find=find)
