"""What can be chosen about images: where they may come from, how large they may be, and how long to wait for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

URL_SETTING = "MASKLOOM_LABEL_STUDIO_URL"
TOKEN_SETTING = "MASKLOOM_LABEL_STUDIO_TOKEN"
ROOTS_SETTING = "MASKLOOM_LOCAL_ROOTS"
BYTES_SETTING = "MASKLOOM_MAX_IMAGE_MIB"
PIXELS_SETTING = "MASKLOOM_MAX_IMAGE_MEGAPIXELS"


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaOptions:
    """Where images come from and what they may cost.

    ``label_studio_url`` and ``token`` are ours and go together: the token is sent nowhere else (see sites.Sites).
    ``local_roots`` are the folders from which files may be read. ``cache_bytes`` bounds the files in ``cache_dir`` and
    ``decoded_bytes`` the decoded images in memory; 0 keeps none.
    ``total_timeout_s`` bounds one image with all its retries; ``first_wait_s`` is the pause before the first retry, the
    later ones double it.
    """

    cache_dir: Path
    label_studio_url: str | None = None
    token: str | None = field(default=None, repr=False)
    local_roots: tuple[Path, ...] = ()
    cache_bytes: int = 1 << 30
    decoded_bytes: int = 256 << 20
    max_bytes: int = 64 << 20
    max_pixels: int = 64_000_000
    connect_timeout_s: float = 3.0
    read_timeout_s: float = 30.0
    total_timeout_s: float = 60.0
    first_wait_s: float = 0.3
    user_agent: str = "maskloom"
