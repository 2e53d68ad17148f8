"""Fetched files on disk: what their servers gave along comes back, and what is no such file is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.images.cache import image_cache
from backend.images.fetch import Fetched, Validators


def test_what_was_put_comes_back_with_its_validators(tmp_path: Path) -> None:
    fetched = Fetched(b"line\nline\n\x00", Validators(etag='W/"1"', last_modified="Sat, 21 Nov 2026 00:00:00 GMT"))
    image_cache(tmp_path / "new" / "folder", 10_000).put("a", fetched)
    cache = image_cache(tmp_path / "new" / "folder", 10_000)
    assert cache.get("a") == fetched
    assert 0 <= cache.age_s("a") < 5


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]\n", b"null\nbody", b'{"digest": "x", "more": 1}\n', b"\xff\xfe"])
def test_a_damaged_file_is_as_good_as_none(damage: bytes, tmp_path: Path) -> None:
    cache = image_cache(tmp_path, 10_000)
    cache.put("a", Fetched(bytes(100), Validators()))
    cache.path("a").write_bytes(damage)
    assert cache.get("a") is None
    cache.put("a", Fetched(bytes(100), Validators()))
    assert cache.get("a") is not None
