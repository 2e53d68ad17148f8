"""What can be chosen about images: where they may come from, how large they may be, how long to wait; the refusals; and images
too large to be held whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from backend.values.errors import ImageError
from backend.values.masks import Masks, MaskSet, RunLengths
from prompts.geometry import PixelBox, Size, size_of
from prompts.kinds import Image, KeyedImage

ReadWindow = Callable[[PixelBox, int], Image]
"""The pixels ``(h, w, 3)`` of a box, of every so-manieth row and column."""
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".avif", ".avifs", ".gif", ".bmp", ".tif", ".tiff"}
    | {".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"}
)
"""What the names of image files end with."""
URL_SETTING = "MASKLOOM_LABEL_STUDIO_URL"
TOKEN_SETTING = "MASKLOOM_LABEL_STUDIO_TOKEN"
ROOTS_SETTING = "MASKLOOM_LOCAL_ROOTS"
BYTES_SETTING = "MASKLOOM_MAX_IMAGE_MIB"
FILM_BYTES_SETTING = "MASKLOOM_MAX_FILM_MIB"
BANDS_SETTING = "MASKLOOM_BANDS"
PIXELS_SETTING = "MASKLOOM_MAX_IMAGE_MEGAPIXELS"


class LargeImage(KeyedImage):
    """An image of which ``read`` gives windows; whoever asks for all of its pixels gets an ImageError."""

    _size: Size
    _read: ReadWindow

    def __init__(self, key: str, size: Size, read: ReadWindow) -> None:
        for name, value in (("key", key), ("_size", size), ("_read", read)):
            object.__setattr__(self, name, value)

    @property
    def pixels(self) -> Image:
        raise ImageError(f"its {self.size.width} x {self.size.height} pixels are read in windows only, never whole")

    @property
    def size(self) -> Size:
        return self._size

    def window(self, box: PixelBox, step: int = 1) -> KeyedImage:
        """A part of it, shrunk by leaving out rows and columns where ``step`` is more than 1."""
        pixels = self._read(box, step)
        pixels.setflags(write=False)
        return KeyedImage(pixels, f"{self.key}@{','.join(map(str, box))}/{step}")


OVERVIEW = 2048
"""The longer side of a large image, about, when it is looked at as a whole."""


def overview(image: KeyedImage, masks: MaskSet) -> tuple[Image, MaskSet]:
    """An image and its masks to look at: as they are or, of a large image, of every so-manieth row and column."""
    if not isinstance(image, LargeImage):
        return image.pixels, masks
    height, width = image.size.height, image.size.width
    step = -(-max(height, width) // OVERVIEW)
    picture = image.window((0, 0, width, height), step).pixels
    small = Masks(size_of(picture), tuple(_shrunk(runs, step) for runs in masks.masks.runs))
    return picture, replace(masks, masks=small)


def _shrunk(runs: RunLengths, step: int) -> RunLengths:
    """The pixels of a mask in every so-manieth row and column."""
    (rows, columns), window = runs.window()
    top, left = -rows.start % step, -columns.start % step
    small = Size(-(-runs.size.height // step), -(-runs.size.width // step))
    return RunLengths.placed(window[top::step, left::step], ((columns.start + left) // step, (rows.start + top) // step), small)


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaOptions:
    """Where images come from and what they may cost.

    ``label_studio_url`` and ``token`` are ours and go together: the token is sent nowhere else (see sites.Sites).
    ``hosts`` are those that may be asked without having a public address (see network.HostPolicy); ``ca_file`` holds
    certificates to trust besides the usual ones. ``local_roots`` are the folders from which files may be read.
    ``bands`` are shown of TIFFs that have more than three, counted from 0.
    ``max_film_bytes`` bounds a video file, and ``film_cache_bytes`` those that were fetched.
    ``cache_bytes`` bounds the files in ``cache_dir`` and ``decoded_bytes`` the decoded images in memory; 0 keeps none.
    ``total_timeout_s`` bounds one image with all its retries, unless it is coming quickly by then; ``first_wait_s`` is the
    pause before the first retry, the later ones double it.
    """

    cache_dir: Path
    label_studio_url: str | None = None
    token: str | None = field(default=None, repr=False)
    local_roots: tuple[Path, ...] = ()
    hosts: tuple[str, ...] = ("localhost",)
    ca_file: Path | None = None
    cache_bytes: int = 1 << 30
    decoded_bytes: int = 256 << 20
    max_bytes: int = 64 << 20
    bytes_setting: str = BYTES_SETTING
    max_film_bytes: int = 2 << 30
    film_cache_bytes: int = 4 << 30
    max_pixels: int = 64_000_000
    bands: tuple[int, ...] = ()
    connect_timeout_s: float = 3.0
    read_timeout_s: float = 30.0
    total_timeout_s: float = 60.0
    first_wait_s: float = 0.3
    user_agent: str = "maskloom"


def too_large(most_bytes: int, setting: str = BYTES_SETTING) -> ImageError:
    """The refusal of a file above the limit."""
    return ImageError(f"it is larger than the limit of {most_bytes:,} bytes; raise {setting} if it is meant to be read")


def check_pixels(width: int, height: int, most_pixels: int) -> None:
    """Raise ImageError when an image has more than ``most_pixels``."""
    if width * height > most_pixels:
        raise ImageError(
            f"it has {width} x {height} pixels, more than the limit of {most_pixels:,}; "
            f"raise {PIXELS_SETTING} if it is meant to be read"
        )


"""The endings of files of these formats."""


class ImageSource(Protocol):
    """Whoever gives the images of tasks: these over the network and from disk, or a source that wraps them."""

    def load(self, url: str, project: str, task_id: str | None) -> KeyedImage:
        """The upright image with its key. Raises ImageError or RemoteError where it cannot be had."""
        ...

    def read(self, url: str, project: str, task_id: str | None) -> bytes:
        """The file of an image as it is stored. Raises like ``load``."""
        ...

    def film(self, url: str, project: str, task_id: str) -> Path:
        """The video file of a task, on this machine. Raises VideoError or RemoteError where it cannot be had."""
        ...

    def close(self) -> None:
        """End the connections."""
        ...
