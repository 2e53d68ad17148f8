"""Brush regions: run lengths as Label Studio writes them, and strokes that came since."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from backend.labelstudio.shapes import mask_of, painted
from backend.labelstudio.shapes import painted as rle
from backend.values.errors import RequestError
from backend.values.masks import RunLengths
from bench.rle import find_sdk
from prompts.geometry import BoolArray, Size, size_of
from tests.backend.labelstudio.captured import body
from tests.labelstudio.prepare import shared_folder

SDK = find_sdk(shared_folder().root)
needs_sdk = pytest.mark.skipif(SDK is None, reason="label-studio-sdk is not here; `make test` installs it with Label Studio")

shapes = st.tuples(st.integers(1, 40), st.integers(1, 40))
noise = shapes.flatmap(lambda shape: arrays.arrays(np.bool_, shape))


@st.composite
def blocks(draw: st.DrawFn) -> BoolArray:
    """Masks of a few long runs, most of them longer than the 65536 bytes that one item holds."""
    height, width = draw(st.integers(1, 400)), draw(st.integers(1, 400))
    ends = draw(st.lists(st.integers(0, height * width), max_size=6))
    flips = np.zeros(height * width + 1, np.bool_)
    np.logical_xor.at(flips, ends, True)
    return np.logical_xor.accumulate(flips)[:-1].reshape(height, width)


masks = noise | blocks()


class Bits:
    """A stream written bit by bit, and read the same way: slow, and plainly what the format says."""

    def __init__(self, stream: Sequence[int] = ()) -> None:
        self.text = "".join(f"{byte:08b}" for byte in stream)

    def write(self, number: int, width: int) -> Bits:
        self.text += f"{number:0{width}b}"
        return self

    def read(self, width: int) -> int:
        head, self.text = self.text[:width], self.text[width:]
        return int(head, 2)

    def header(self, count: int, run_bits: Sequence[int] = (3, 4, 8, 16), word: int = 8) -> Bits:
        self.write(count, 32).write(word - 1, 5)
        for width in run_bits:
            self.write(width - 1, 4)
        return self

    def bytes(self) -> list[int]:
        padded = self.text + "0" * (-len(self.text) % 8)
        return [int(padded[k : k + 8], 2) for k in range(0, len(padded), 8)]


def plain_decode(stream: Sequence[int]) -> list[int]:
    """All bytes of a stream."""
    bits, out = Bits(stream), []
    count, _, run_bits = bits.read(32), bits.read(5), [bits.read(4) + 1 for _ in range(4)]
    while len(out) < count:
        is_run = bits.read(1)
        length = bits.read(run_bits[bits.read(2)]) + 1
        out.extend([bits.read(8)] * length if is_run else [bits.read(8) for _ in range(length)])
    return out


@given(masks)
def test_every_channel_of_every_pixel_is_255_inside_the_mask_and_0_outside(mask: BoolArray) -> None:
    assert plain_decode(rle.encode(mask)) == np.repeat(mask.ravel() * 255, 4).tolist()


@given(masks)
def test_a_mask_survives_encoding_and_decoding(mask: BoolArray) -> None:
    decoded = rle.decode(rle.encode(mask), size_of(mask))
    assert decoded.dtype == np.bool_
    assert np.array_equal(decoded, mask)


def test_a_mask_is_encoded_alike_however_it_lies_in_memory() -> None:
    mask = np.random.default_rng(0).random((30, 40)) < 0.3
    assert rle.encode(np.asfortranarray(mask)) == rle.encode(mask) == rle.encode(np.repeat(mask, 2, axis=1)[:, ::2])


@needs_sdk
@given(masks)
def test_label_studio_s_sdk_reads_what_we_write(mask: BoolArray) -> None:
    decoded = SDK.decode_rle(rle.encode(mask)).reshape(*mask.shape, 4)
    assert np.array_equal(decoded, np.repeat(mask[..., None] * np.uint8(255), 4, axis=2))


@needs_sdk
@given(masks)
def test_we_read_what_label_studio_s_sdk_writes(mask: BoolArray) -> None:
    theirs = SDK.mask2rle(mask.astype(np.uint8) * 255)
    assert np.array_equal(rle.decode(theirs, size_of(mask)), mask)


@needs_sdk
@given(noise)
def test_short_runs_are_written_as_label_studio_s_sdk_writes_them(mask: BoolArray) -> None:
    """What is left of a run longer than one item is not: there the SDK takes 16 bits for any number, we as few as do."""
    ours = rle.encode(mask)
    assert ours == SDK.mask2rle(mask.astype(np.uint8) * 255)[: len(ours)], "but for the SDK's last byte of padding"


@needs_sdk
def test_what_is_left_of_a_long_run_is_written_no_longer_than_label_studio_s_sdk_writes_it() -> None:
    mask = np.arange(207 * 270).reshape(207, 270) >= 6736
    ours, theirs = rle.encode(mask), SDK.mask2rle(mask.astype(np.uint8) * 255)
    assert len(ours) < len(theirs)
    assert plain_decode(ours) == np.repeat(mask.ravel() * 255, 4).tolist()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.binary(min_size=1, max_size=8)), min_size=1), st.data())
def test_any_mixture_of_runs_and_literals_is_read(items: list[tuple[bool, int, bytes]], data: st.DataObject) -> None:
    """The page writes literals where neighbours differ, in whichever run size it likes."""
    run_bits = data.draw(st.tuples(*[st.integers(3, 16)] * 4))
    lengths = [data.draw(st.integers(1, min(1 << run_bits[which], 3000))) if run else len(raw) for run, which, raw in items]
    fill = -sum(lengths) % 4
    bits = Bits().header(sum(lengths) + fill, run_bits)
    for (is_run, which, raw), length in zip(items, lengths, strict=True):
        bits.write(int(is_run), 1).write(which, 2).write(length - 1, run_bits[which])
        for value in raw[:1] if is_run else raw:
            bits.write(value, 8)
    for _ in range(fill):
        bits.write(0, 3).write(0, run_bits[0]).write(7, 8)
    stream = bits.bytes()
    expected = np.array(plain_decode(stream))[3::4] > 0
    assert np.array_equal(rle.decode(stream, Size(1, expected.size)).ravel(), expected)


def test_a_stream_longer_than_one_block_is_read() -> None:
    mask = np.random.default_rng(0).random((700, 700)) < 0.5
    stream = rle.encode(mask)
    assert len(stream) > 3 * rle._BLOCK
    assert np.array_equal(rle.decode(stream, Size(700, 700)), mask)


@pytest.mark.parametrize("value", [None, 7, "rle", ["0", "18"], [1.5], [256], [-1], [10**30], [None], {}, [], [0, 18, 192]])
def test_what_is_no_stream_is_refused(value: object) -> None:
    with pytest.raises(RequestError, match="corrupt"):
        rle.decode(value, Size(2, 2))  # type: ignore[arg-type]


def test_a_shortened_list_is_refused() -> None:
    stream: list[object] = [*rle.encode(np.ones((4, 4), np.bool_)), "... 1112 ints in total, shortened here"]
    with pytest.raises(RequestError, match="list of bytes"):
        rle.decode(stream, Size(4, 4))  # type: ignore[arg-type]


def test_a_mask_of_another_size_is_refused_with_both_sizes() -> None:
    stream = rle.encode(np.ones((4, 4), np.bool_))
    with pytest.raises(RequestError, match=r"64 bytes.* 5 x 4 pixels needs 80"):
        rle.decode(stream, Size(4, 5))


def test_words_of_another_size_are_refused() -> None:
    with pytest.raises(RequestError, match="words of 8 bits"):
        rle.decode(Bits().header(16, word=16).write(0, 64).bytes(), Size(2, 2))


@pytest.mark.parametrize("length", [1, 15, 17, 60_000])
def test_runs_that_do_not_add_up_are_refused(length: int) -> None:
    stream = Bits().header(16).write(1, 1).write(3, 2).write(length - 1, 16).write(255, 8).bytes()
    with pytest.raises(RequestError, match="do not add up to 16 bytes"):
        rle.decode(stream, Size(2, 2))


@given(noise, st.data())
def test_a_damaged_stream_is_read_or_refused_and_nothing_else(mask: BoolArray, data: st.DataObject) -> None:
    stream = rle.encode(mask)
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    stream = stream[: data.draw(st.integers(0, len(stream)))]
    with suppress(RequestError):
        assert rle.decode(stream, size_of(mask)).shape == mask.shape


def test_a_stream_that_promises_gigabytes_costs_no_memory() -> None:
    promise = Bits().header(2**32 - 1)
    for _ in range(1000):
        promise.write(1, 1).write(3, 2).write(65_535, 16).write(255, 8)
    stream = promise.bytes()
    tracemalloc.start()
    with pytest.raises(RequestError):
        rle.decode(stream, Size(2, 2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


SIZE = Size(100, 200)


def touch(*path: float, kind: str = "add", width: float = 5.0) -> dict[str, Any]:
    return {"type": kind, "relativePoints": list(path), "relativeStrokeWidth": width}


def region(*touches: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "brushlabels", "value": {"format": "rle", "touches": list(touches), **more}}


def test_a_stroke_is_a_bar_with_round_ends_as_wide_as_percents_of_the_width_say() -> None:
    mask = mask_of(region(touch(25, 50, 75, 50)), SIZE)
    rows, columns = np.mgrid[:100, :200]
    nearest = np.clip(columns + 0.5, 50, 150)
    true = (columns + 0.5 - nearest) ** 2 + (rows + 0.5 - 50) ** 2 <= 5**2
    assert (mask & true).sum() / (mask | true).sum() > 0.99


def test_the_eraser_takes_away_and_a_later_stroke_paints_over_it() -> None:
    bar, gap, dab = touch(25, 50, 75, 50), touch(50, 50, kind="eraser", width=10), touch(50, 50, width=2)
    erased = mask_of(region(bar, gap), SIZE)
    assert not erased[40:60, 95:105].any()
    assert erased[50, 60]
    again = mask_of(region(bar, gap, dab), SIZE)
    assert again[50, 100]
    assert not again[50, 106]


def test_strokes_go_over_the_mask_that_the_server_had_kept() -> None:
    kept = np.zeros((100, 200), np.bool_)
    kept[10:20, 10:20] = True
    (shape,) = painted.write_brush(RunLengths.of(kept))
    mask = mask_of(region(touch(50, 50), rle=shape.value["rle"]), SIZE)
    assert mask[15, 15]
    assert mask[50, 100]


def test_the_captured_scribble_lies_where_it_was_drawn() -> None:
    (item,) = body("interactive_with_scribble_in_draft")["tasks"][0]["drafts"][0]["result"]
    mask = mask_of(item, Size(480, 640))
    rows, columns = np.nonzero(mask)
    assert (columns.min(), columns.max()) == (pytest.approx(137 - 5.5, abs=1.5), pytest.approx(258.5 + 5.5, abs=1.5))
    assert (rows.min(), rows.max()) == (pytest.approx(193.7 - 5.5, abs=1.5), pytest.approx(239.4 + 5.5, abs=1.5))


@pytest.mark.parametrize(
    "broken",
    [touch(), touch(1), touch(1, 2, 3), touch(1, float("nan")), touch(1e9, 2), {"type": "add"}, touch(1, 2, width=10**400)],
)
def test_a_broken_stroke_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        mask_of(region(broken), SIZE)


def test_a_brush_region_without_anything_is_refused() -> None:
    with pytest.raises(RequestError, match="neither 'rle' nor strokes"):
        mask_of(region(), SIZE)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(
    path=anything | st.lists(st.floats(-1e7, 1e7), max_size=6), width=anything | st.floats(-1e7, 1e7), kind=st.text(max_size=3)
)
def test_any_stroke_is_painted_or_refused(path: Any, width: Any, kind: str) -> None:
    try:
        mask = mask_of(region({"type": kind, "relativePoints": path, "relativeStrokeWidth": width}), Size(7, 9))
    except RequestError:
        return
    assert mask.shape == (7, 9)
