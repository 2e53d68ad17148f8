"""Which photos a folder holds, and how they are laid where both Label Studio and the backend read them from disk."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from backend.values.errors import ImageError, SetupError

SHOWN_BY_BROWSERS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"})
CONVERTED = frozenset({".tif", ".tiff"})
SUPPORTED = SHOWN_BY_BROWSERS | CONVERTED
EXAMPLES = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")


def find_photos(folder: Path) -> list[Path]:
    """The photos in a folder and the folders below it, hidden ones left out, by name.

    Raises SetupError when there is no such folder, or nothing in it that could be a photo.
    """
    if not folder.is_dir():
        kind = "is not a folder" if folder.exists() else "does not exist"
        raise SetupError(f"the photo folder {folder} {kind}; give another one")
    photos = [path for path in folder.rglob("*") if path.suffix.lower() in SUPPORTED and path.is_file()]
    shown = sorted(path for path in photos if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    if not shown:
        raise SetupError(f"the photo folder {folder} holds no photos ({', '.join(sorted(SUPPORTED))})")
    return shown


def example_folder() -> Path:
    """Where scikit-image keeps the photos that it ships. Raises SetupError when scikit-image is not installed."""
    try:
        import skimage.data
    except ImportError as error:
        raise SetupError("the example photos come with scikit-image; install it (pip install 'maskloom[demo]')") from error
    return Path(skimage.data.__file__).parent


def find_examples(names: Sequence[str] = EXAMPLES) -> list[Path]:
    """Photos of things that scikit-image ships inside its wheel, so that nothing is downloaded."""
    folder = example_folder()
    photos = [folder / name for name in names if (folder / name).is_file()]
    if not photos:
        raise SetupError(f"this scikit-image ships none of {', '.join(names)} in {folder}; give a folder of photos")
    return photos


def lay_out(photo: Path, target: Path) -> Path:
    """Put a photo at ``target`` and return where it came to lie; one that lies there already is left alone.

    It is a hard link where the disk allows it, otherwise a copy; formats that browsers do not show become PNG.
    Raises ImageError when the photo cannot be decoded.
    """
    if photo.suffix.lower() in CONVERTED:
        target = target.with_name(f"{target.name}.png")
    written = photo.stat()
    if target.exists() and target.stat().st_mtime_ns == written.st_mtime_ns:
        return target
    check(photo)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    if photo.suffix.lower() in CONVERTED:
        _convert(photo, target)
        os.utime(target, ns=(written.st_atime_ns, written.st_mtime_ns))
    else:
        _link(photo, target)
    return target


def check(photo: Path) -> None:
    """Decode a photo coarsely. Raises ImageError when it is broken."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(photo) as image:
            image.draft("L", (1, 1))
            image.load()
    except Exception as error:  # Pillow's decoders raise nearly anything on broken files
        raise ImageError(f"{photo} cannot be read: {error}") from error


def _convert(photo: Path, target: Path) -> None:
    with warnings.catch_warnings(action="ignore"), Image.open(photo) as image:
        upright = ImageOps.exif_transpose(image)
        partial = target.with_name(f".{target.name}.partial")
        _eight_bits(upright).save(partial, "PNG")
        partial.replace(target)


def _eight_bits(image: Image.Image) -> Image.Image:
    if not image.mode.startswith(("I", "F")):
        return image.convert("RGB")
    values = np.nan_to_num(np.asarray(image, np.float32))
    low, high = float(values.min()), float(values.max())
    return Image.fromarray(((values - low) * (255 / max(high - low, 1e-9))).astype(np.uint8))


def _link(photo: Path, target: Path) -> None:
    try:
        os.link(photo.resolve(), target)
    except OSError:
        shutil.copy2(photo, target)
