"""A task's image: from what the task's data says to an upright RGB array, wherever the image lies."""

from backend.labelstudio.media.loader import Media
from backend.labelstudio.media.options import MediaOptions

__all__ = ["Media", "MediaOptions"]
