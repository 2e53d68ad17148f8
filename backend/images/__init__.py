"""A task's image: from what the task's data says to an upright RGB array, wherever the image lies."""

from backend.images.limits import SUFFIXES, ImageSource, MediaOptions
from backend.images.loader import Media

__all__ = ["SUFFIXES", "ImageSource", "Media", "MediaOptions"]
