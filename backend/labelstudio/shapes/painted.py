"""Painted regions: a brush's run lengths and strokes, and bitmasks, PNGs whose opaque pixels are the mask."""

from __future__ import annotations

import base64
import binascii
import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backend.labelstudio.shapes.base import FARTHEST_PERCENT, Json, ShapeValue, mappings, read_number
from backend.values.errors import RequestError
from backend.values.masks import RunLengths, united
from prompts.geometry import BoolArray, FloatArray, Size, percent_to_pixels, stroke_mask

_HEADER_BITS = 32 + 5 + 4 * 4
_LONGEST_RUN = 1 << 16
_RUN_BITS = np.array([3, 4, 8, 16], np.uint64)
_BLOCK = 1 << 16
"""Bytes of a stream whose items are found in one go, so that the working arrays stay small."""
MOST_POINTS = 100_000
"""Of one stroke."""

Positions = NDArray[np.int64]
Words = NDArray[np.uint64]


def encode(mask: BoolArray) -> list[int]:
    """A mask ``(H, W)`` as the bytes of a stream (see encode_runs)."""
    return encode_runs(RunLengths.of(mask))


def encode_runs(runs: RunLengths) -> list[int]:
    """A mask ``(H, W)`` as the bytes of a stream, every channel 255 inside the mask and 0 outside."""
    counts = runs.counts().astype(np.int64)
    inside = np.arange(len(counts)) % 2 == 1
    lengths, values = _split_long_runs(4 * counts[counts > 0], inside[counts > 0])
    size_index = np.searchsorted([8, 16, 256], lengths).astype(np.uint64)
    run_bits = _RUN_BITS[size_index]
    header = (np.uint64(0b100) | size_index) << (run_bits + np.uint64(8))
    words = header | ((lengths - 1).astype(np.uint64) << np.uint64(8)) | np.where(values, np.uint64(255), np.uint64(0))
    head = (4 * runs.size.pixels) << 21 | (7 << 16) | 0b0010_0011_0111_1111
    return list(_pack(words, (run_bits + np.uint64(11)).astype(np.int64), head))


def decode(rle: Sequence[int], size: Size) -> BoolArray:
    """The mask ``(H, W)`` of a stream (see decode_runs)."""
    return decode_runs(rle, size).decode()


def decode_runs(rle: Sequence[int], size: Size) -> RunLengths:
    """The mask of a stream: the pixels with alpha above 0, which need not be painted for it.

    Raises:
        RequestError: the stream is no list of bytes, is cut short, or describes an image of another size.
    """
    stream = _Stream.read(rle)
    if stream.count != 4 * size.pixels:
        raise RequestError(
            f"a brush mask holds {stream.count} bytes, but an image of {size.width} x {size.height} pixels needs "
            f"{4 * size.pixels}; was the image replaced?"
        )
    lengths, values = stream.runs()
    ends = np.cumsum(lengths)
    last = int(np.searchsorted(ends, stream.count))
    if last == ends.size or ends[last] != stream.count:
        raise RequestError(f"a brush mask is corrupt: its runs do not add up to {stream.count} bytes")
    bounds = np.concatenate([[0], ends[: last + 1] // 4])
    has_alpha = np.diff(bounds) > 0
    bounds = np.concatenate([[0], bounds[1:][has_alpha]])
    inside = np.concatenate([[False], values[: last + 1][has_alpha] > 0, [False]])
    return RunLengths(size, bounds[np.flatnonzero(inside[1:] != inside[:-1])].astype(np.uint32))


def _split_long_runs(lengths: Positions, values: BoolArray) -> tuple[Positions, BoolArray]:
    """Runs with none longer than the code allows."""
    parts = -(-lengths // _LONGEST_RUN)
    if parts.size == 0 or parts.max() == 1:
        return lengths, values
    split = np.full(int(parts.sum()), _LONGEST_RUN, np.int64)
    split[np.cumsum(parts) - 1] = lengths - (parts - 1) * _LONGEST_RUN
    return split, np.repeat(values, parts)


def _pack(words: Words, bits: Positions, head: int) -> bytes:
    """The header and then every word's lowest ``bits`` (14 to 27), one after the other.

    A word lies within 5 bytes, and words three apart (at least 42 bits) begin at least 5 bytes apart: every third
    word can be written at once.
    """
    ends = _HEADER_BITS + np.cumsum(bits)
    starts = ends - bits
    out = np.zeros(-(-int(ends[-1]) // 8) + 4, np.uint8)
    out[:7] = np.frombuffer((head << 3).to_bytes(7, "big"), np.uint8)
    windows = words << (40 - bits - starts % 8).astype(np.uint64)
    for third in range(3):
        at, window = starts[third::3] // 8, windows[third::3]
        for byte in range(5):
            out[at + byte] |= (window >> np.uint64(32 - 8 * byte)).astype(np.uint8)
    return out[:-4].tobytes()


@dataclass(frozen=True, slots=True)
class _Stream:
    """A stream's bytes, how many bytes it stands for, and its four run sizes in bits."""

    data: NDArray[np.uint8]
    count: int
    run_bits: Positions

    @classmethod
    def read(cls, rle: Sequence[int]) -> _Stream:
        try:
            data = bytes(list(rle))
        except (TypeError, ValueError) as error:
            raise RequestError("a brush mask is corrupt: expected a list of bytes 0..255") from error
        header = int.from_bytes(data[:7], "big") >> 3
        if len(data) < 7 or (header >> 16) & 31 != 7:
            raise RequestError("a brush mask is corrupt: expected a header with words of 8 bits")
        run_bits = np.array([(header >> shift & 15) + 1 for shift in (12, 8, 4, 0)], np.int64)
        return cls(np.frombuffer(data, np.uint8), header >> 21, run_bits)

    def runs(self) -> tuple[Positions, NDArray[np.uint8]]:
        """The length and the value of every run, literals as runs of one; trailing bits may add a few."""
        parts = [(np.zeros(0, np.int64), np.zeros(0, np.uint8)), *(self._expand(block) for block in self._blocks())]
        return np.concatenate([lengths for lengths, _ in parts]), np.concatenate([values for _, values in parts])

    def _blocks(self) -> Iterator[Positions]:
        """The bit positions of all items, a block of the stream at a time."""
        position, total = _HEADER_BITS, 8 * self.data.size
        while position < total:
            first = position // 8
            here = np.arange(8 * first, min(8 * (first + _BLOCK), total))
            positions, position = _follow(self._next(here), position, int(here[0]))
            yield np.array(positions, np.int64)

    def _next(self, at: Positions) -> Positions:
        """Where the item after an item at these bit positions would begin."""
        is_run, lengths, values_at = self._item(at)
        following: Positions = values_at + 8 * np.where(is_run, 1, lengths)
        return following

    def _item(self, at: Positions) -> tuple[BoolArray, Positions, Positions]:
        """Whether the items at these bit positions are runs, their lengths, and where their values begin."""
        head = self._bits(at, 3)
        run_bits = self.run_bits[head & 3]
        return head >= 4, self._bits(at + 3, run_bits) + 1, at + 3 + run_bits

    def _expand(self, at: Positions) -> tuple[Positions, NDArray[np.uint8]]:
        is_run, lengths, values_at = self._item(at)
        whole = values_at + 8 * np.where(is_run, 1, lengths) <= 8 * self.data.size
        is_run, lengths, values_at = is_run[whole], lengths[whole], values_at[whole]
        copies = np.where(is_run, 1, lengths)
        nth = np.arange(int(copies.sum())) - np.repeat(np.cumsum(copies) - copies, copies)
        values = self._bits(np.repeat(values_at, copies) + 8 * nth, 8).astype(np.uint8)
        return np.repeat(np.where(is_run, lengths, 1), copies), values

    def _bits(self, at: Positions, width: Positions | int) -> Positions:
        """The numbers of ``width`` (1 to 16) bits at these bit positions, which mean nothing beyond the end."""
        byte = at >> 3
        window = np.zeros(at.shape, np.int64)
        for k in range(3):
            window = window << 8 | self.data.take(byte + k, mode="clip")
        result: Positions = window >> (24 - (at & 7) - width) & ((1 << width) - 1)
        return result


def _follow(following: Positions, position: int, offset: int) -> tuple[list[int], int]:
    """The items from a position to the end of the block, and where the next block goes on."""
    steps, visited, end = following.data, [], offset + following.size
    while position < end:
        visited.append(position)
        position = steps[position - offset]
    return visited, position


@dataclass(frozen=True, slots=True, eq=False)
class Stroke:
    """One stroke: its path ``(N, 2)`` in percent of the image, its width in percent of the image's width, and whether it paints
    or erases.
    """

    path: FloatArray
    width: float
    erases: bool


def write_brush(runs: RunLengths) -> list[ShapeValue]:
    """A mask ``(H, W)`` as a brush mask; nothing for an empty mask."""
    return [ShapeValue({"format": "rle", "rle": encode_runs(runs)})] if len(runs.edges) else []


def read_brush(value: Json, size: Size) -> BoolArray:
    """The mask ``(H, W)`` of a brush region: the one that the server had kept, with the strokes that came since.

    Raises:
        RequestError: its mask is corrupt or of another size, a stroke cannot be read, or it has neither.
    """
    painted = decode(value["rle"], size) if isinstance(value.get("rle"), list) else None
    strokes = [_read_stroke(touch) for touch in mappings(value.get("touches"))]
    if painted is None and not strokes:
        raise RequestError("a brush region has neither 'rle' nor strokes; open and submit its annotation again")
    return paint(strokes, size, painted)


def kept_runs(value: Json, size: Size) -> RunLengths | None:
    """The mask of a brush region on which nothing was painted since it was stored; None for others. Raises RequestError."""
    is_kept = isinstance(value.get("rle"), list) and not any(mappings(value.get("touches")))
    return decode_runs(value["rle"], size) if is_kept else None


def paint(strokes: Sequence[Stroke], size: Size, ground: BoolArray | None = None) -> BoolArray:
    """The mask ``(H, W)`` that the strokes leave, one after the other, on a mask that was there before."""
    mask = np.zeros((size.height, size.width), np.bool_) if ground is None else ground
    for stroke in strokes:
        covered = stroke_mask(percent_to_pixels(stroke.path, size), stroke.width * size.width / 100, size)
        mask = mask & ~covered if stroke.erases else mask | covered
    return mask


def _read_stroke(touch: Json) -> Stroke:
    try:
        flat = np.asarray(touch.get("relativePoints"), np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise RequestError("expected percents under a stroke's 'relativePoints'") from error
    if flat.ndim != 1 or not 2 <= flat.size <= MOST_POINTS or flat.size % 2 or not (np.abs(flat) <= FARTHEST_PERCENT).all():
        raise RequestError(f"expected pairs of percents under a stroke's 'relativePoints', got an array of {flat.shape}")
    return Stroke(flat.reshape(-1, 2), read_number(touch, "relativeStrokeWidth"), touch.get("type") == "eraser")


LARGEST = 4
MOST_STRETCHED = 16_000_000
"""A bitmask may be stretched to its image; one of more pixels than so many times the image's, or than these where the image has
fewer, is not decoded.
"""
_HEAD = "data:image/png;base64,"
_STRIP_BYTES = 1 << 20
"""Of the lines of a bitmask so many are packed and unpacked at once."""


def write_bitmask(runs: RunLengths) -> list[ShapeValue]:
    """A mask ``(H, W)`` as a PNG with one bit a pixel, 0 transparent and 1 opaque; nothing for an empty mask.

    The page reads alpha alone; this is the smallest form that it draws. Some lines are packed at a time: the pixels of an image
    of any size need not be held.
    """
    if not len(runs.edges):
        return []
    press, body = zlib.compressobj(), bytearray()
    for first, last in _strips(runs.size):
        lines = np.packbits(runs.rows(first, last), axis=1)
        body += press.compress(np.pad(lines, ((0, 0), (1, 0))).tobytes())  # a line begins with its filter, 0 for none
    picture = _png_head(runs.size) + _chunk(b"IDAT", bytes(body + press.flush())) + _chunk(b"IEND", b"")
    return [ShapeValue({"imageDataURL": _HEAD + base64.b64encode(picture).decode()})]


def packed_runs(value: Json, size: Size) -> RunLengths | None:
    """The mask of a bitmask that is as ``write_bitmask`` makes it, some lines at a time; None for others."""
    head, length, parts = _png_head(size), _line_bytes(size), [RunLengths(size, np.zeros(0, np.uint32))]
    try:
        picture, unpack = (
            base64.b64decode(str(value.get("imageDataURL")).removeprefix(_HEAD), validate=True),
            zlib.decompressobj(),
        )
        if not picture.startswith(head):
            return None
        rest = picture[len(head) + 8 :]
        for first, last in _strips(size):
            lines = np.frombuffer(unpack.decompress(rest, (last - first) * length), np.uint8).reshape(last - first, length)
            rest = unpack.unconsumed_tail
            if lines[:, 0].any():
                return None
            if lines.any():
                inside = np.unpackbits(lines[:, 1:], axis=1, count=size.width).astype(np.bool_)
                parts.append(RunLengths.placed(inside, (0, first), size))
    except (binascii.Error, ValueError, zlib.error):
        return None
    return united(parts)


def _strips(size: Size) -> Iterator[tuple[int, int]]:
    """The first and, exclusive, the last of some lines of a bitmask at a time."""
    rows = max(1, _STRIP_BYTES // _line_bytes(size))
    return ((first, min(first + rows, size.height)) for first in range(0, size.height, rows))


def _line_bytes(size: Size) -> int:
    return 1 + -(-size.width // 8)


def _png_head(size: Size) -> bytes:
    """What a bitmask begins with (PNG, 3rd edition, 11.2 and 11.3): one bit a pixel, black and transparent or white."""
    kind = struct.pack(">IIBBBBB", size.width, size.height, 1, 3, 0, 0, 0)
    palette = _chunk(b"PLTE", bytes([0, 0, 0, 255, 255, 255])) + _chunk(b"tRNS", b"\0")
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", kind) + palette


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def read_bitmask(value: Json, size: Size) -> BoolArray:
    """The mask ``(H, W)`` of a bitmask: where its PNG, stretched to the image, is not transparent.

    Raises:
        RequestError: it is no PNG, or one that is far larger than the image.
    """
    _, _, body = str(value.get("imageDataURL")).partition("base64,")
    try:
        opened = Image.open(io.BytesIO(base64.b64decode(body, validate=True)), formats=("PNG",))
        if opened.width * opened.height > max(size.pixels, min(LARGEST * size.pixels, MOST_STRETCHED)):
            raise RequestError(
                f"a bitmask has {opened.width} x {opened.height} pixels, too many for an image of {size.width} x {size.height}"
            )
        alpha = _alpha_of(opened)
    except (binascii.Error, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RequestError(f"a bitmask is no PNG: {error}") from error
    if alpha.size != (size.width, size.height):
        alpha = alpha.resize((size.width, size.height), Image.Resampling.NEAREST)
    mask: BoolArray = np.asarray(alpha) > 0
    return mask


def _alpha_of(picture: Image.Image) -> Image.Image:
    """How opaque the pixels are; of a palette, as this server and others write bitmasks, without any colours between."""
    clear = picture.info.get("transparency")
    if picture.mode == "P" and isinstance(clear, int | bytes):
        table = list(clear) if isinstance(clear, bytes) else [255] * clear + [0]
        picture.load()
        return Image.frombytes("L", picture.size, picture.tobytes()).point([*table, *[255] * (256 - len(table))])
    return picture.getchannel("A") if picture.mode in ("RGBA", "LA") else picture.convert("RGBA").getchannel("A")
