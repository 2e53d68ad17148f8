"""Films are read frame by frame, exactly, whatever their container, rate, order of coding or orientation."""

from __future__ import annotations

import struct
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from backend.values.errors import VideoError
from backend.video import film as module
from backend.video.film import Film, open_film
from tests.backend.video.films import Recipe, numbered_film, paint_number, read_number, write_film

COUNT = 40
VARIABLE = [0, 1, 2, 5, 6, 9, 10, 11, 20, 21, *range(30, 60)]
FILMS = {
    "24.mp4": Recipe(),
    "b-frames.mp4": Recipe(b_frames=2),
    "23.976.mp4": Recipe(rate=Fraction(24000, 1001), b_frames=2),
    "29.97.mp4": Recipe(rate=Fraction(30000, 1001)),
    "variable.mp4": Recipe(ticks=VARIABLE, base=Fraction(1, 24)),
    "vp9.webm": Recipe(codec="libvpx-vp9"),
    "b-frames.avi": Recipe(codec="mpeg4", b_frames=2),
    "frames without times.h264": Recipe(b_frames=2),
    "broadcast.ts": Recipe(b_frames=2),
    "lossless.mkv": Recipe(codec="ffv1"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILMS)
def test_every_frame_is_the_one_that_was_painted(name: str, tmp_path: Path) -> None:
    film = open_film(numbered_film(tmp_path / name, COUNT, FILMS[name]))

    assert len(film) == COUNT
    assert [read_number(frame.image) for frame in film.frames()] == list(range(COUNT))
    assert [read_number(film.frame(k)) for k in (17, 39, 0, 24, 12)] == [17, 39, 0, 24, 12]
    assert [(f.number, read_number(f.image)) for f in film.frames(11, 15)] == [(k, k) for k in range(11, 15)]
    assert [read_number(frame.image) for frame in film.backwards(5, 30)] == list(range(29, 4, -1))


def test_times_of_a_variable_rate_are_the_files(tmp_path: Path) -> None:
    film = open_film(numbered_film(tmp_path / "a.mp4", COUNT, FILMS["variable.mp4"]))

    assert film.timeline.starts.tolist() == pytest.approx([tick / 24 for tick in VARIABLE])
    assert not film.timeline.is_constant
    assert [film.timeline.from_studio(n, Fraction(24)) for n in (1, 4, 6, 21)] == [0, 2, 3, 8]


def test_a_film_of_a_turned_phone_is_upright(tmp_path: Path) -> None:
    """The truth is the file's own matrix: a, b, c, d = 0, 1, -1, 0 turns right into down (ISO 14496-12, 8.3.2)."""
    upright = np.full((192, 64, 3), 40, np.uint8)
    upright[:48, :16] = 220
    path = write_film(tmp_path / "a.mp4", [np.ascontiguousarray(np.rot90(upright))] * 3)
    body = path.read_bytes()
    matrix = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    at = body.index(b"tkhd") + 44
    path.write_bytes(body[:at] + matrix + body[at + 36 :])

    film = open_film(path)

    assert (film.facts.rotation, film.size.height, film.size.width) == (90, 192, 64)
    assert np.abs(film.frame(1).astype(int) - upright).mean() < 6


def test_frames_that_an_edit_list_hides_are_not_counted(tmp_path: Path) -> None:
    path = numbered_film(tmp_path / "a.mp4", COUNT, Recipe(b_frames=2))
    body = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        five = round(5 / 24 / Fraction(container.streams.video[0].time_base or 1))
    at = body.index(b"elst") + 16
    body[at : at + 4] = struct.pack(">i", struct.unpack(">i", body[at : at + 4])[0] + five)
    path.write_bytes(body)

    film = open_film(path)

    assert [read_number(frame.image) for frame in film.frames()] == list(range(5, COUNT))
    assert film.facts.cut == 5
    assert film.timeline.starts[0] == 0


def test_a_picture_that_starts_late_starts_late(tmp_path: Path) -> None:
    """A track that begins with an empty edit: the sound, or nothing, comes first."""
    recipe = Recipe(ticks=[12 + k for k in range(COUNT)], base=Fraction(1, 24))
    film = open_film(numbered_film(tmp_path / "a.mkv", COUNT, recipe))

    with av.open(str(film.path)) as container:
        zero = Fraction(container.start_time or 0, av.time_base)
    assert film.timeline.starts[0] == pytest.approx(0.5 - float(zero), abs=1e-3)


def without_sound_and_picture(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def no_frames(path: Path) -> None:
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.height = stream.width = 64
        stream.pix_fmt = "yuv420p"
        container.start_encoding()


def cut_short(path: Path) -> None:
    numbered_film(path, COUNT)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: None, "there is no file"),
        (lambda path: path.write_bytes(b""), "it is empty"),
        (lambda path: path.write_text("a film\n" * 99), "no video, or cut short or damaged"),
        (cut_short, "no video, or cut short or damaged"),
        (without_sound_and_picture, "has no video stream, only audio"),
        (no_frames, "without a single frame"),
    ],
)
def test_what_is_no_film_is_refused_with_a_sentence(make: object, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    make(path)  # type: ignore[operator]

    with pytest.raises(VideoError, match=sentence) as caught:
        open_film(path)

    assert str(path) in str(caught.value)


def test_an_unknown_codec_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = numbered_film(tmp_path / "a.mp4", 3)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))

    with pytest.raises(VideoError, match=r"codec|damaged"):
        open_film(path)


def test_a_film_with_too_many_pixels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="192 x 64 pixels, more than the limit"):
        open_film(numbered_film(tmp_path / "a.mp4", 3), most_pixels=192 * 64 - 1)


def test_4k_is_read(tmp_path: Path) -> None:
    film = open_film(write_film(tmp_path / "a.mp4", [paint_number(k, 2160, 3840) for k in range(2)]))

    assert (film.size.height, film.size.width) == (2160, 3840)
    assert read_number(film.frame(1)) == 1


def test_a_file_that_breaks_off_keeps_the_frames_that_it_has(tmp_path: Path) -> None:
    path = numbered_film(tmp_path / "a.mp4", COUNT, Recipe(b_frames=2, options=(("movflags", "faststart"),)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])

    film = open_film(path)

    assert 0 < len(film) < COUNT
    assert film.facts.promised == COUNT
    assert [read_number(frame.image) for frame in film.frames()] == list(range(len(film)))


def test_a_damaged_frame_is_named_and_costs_none_before_it(tmp_path: Path) -> None:
    path = numbered_film(tmp_path / "a.mp4", COUNT, Recipe(options=(("movflags", "faststart"),)))
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    body = bytearray(path.read_bytes())
    where, size = packets[20]
    body[where : where + size] = bytes(size)
    path.write_bytes(body)
    film, read = open_film(path), []

    with pytest.raises(VideoError, match="frame 20 of 40 cannot be decoded"):
        read += [read_number(frame.image) for frame in film.frames()]  # the list is filled only by the next line
    for frame in film.frames(0, 20):
        read.append(read_number(frame.image))

    assert read == list(range(20))


def test_frames_that_a_film_does_not_have_are_refused(tmp_path: Path) -> None:
    film = open_film(numbered_film(tmp_path / "a.mp4", 5))

    with pytest.raises(VideoError, match="has the frames 0 to 4, asked for 3 to 7"):
        list(film.frames(3, 8))


@pytest.mark.slow
def test_an_hour_is_read_in_little_memory_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3600 frames of 36 KiB are 130 MB; four megabytes hold a few."""
    film: Film = open_film(numbered_film(tmp_path / "a.mkv", 3600, Recipe(rate=Fraction(1), keyframe_every=100)))
    monkeypatch.setattr(module, "MOST_BYTES", 4 << 20)
    tracemalloc.start()

    forwards = sum(1 for _ in film.frames())
    backwards = [read_number(frame.image) for frame in film.backwards(3000, 3600)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert film.timeline.duration == pytest.approx(3600)
    assert forwards == 3600
    assert backwards == list(range(3599, 2999, -1))
    assert peak < 12 << 20
