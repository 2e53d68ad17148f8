"""A task's image: from what the task's data says to an upright RGB array, wherever the image lies."""

from backend.images.loader import Media
from backend.images.options import MediaOptions

__all__ = ["Media", "MediaOptions"]
