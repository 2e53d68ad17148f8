"""Tracks are judged as DAVIS and TrackEval judge them: cases whose values are known, and an exact assignment."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from typer.testing import CliRunner

from backend.cli import cli
from backend.engines import colour
from backend.evaluation.metrics import Assumptions
from backend.evaluation.tracks import assigned, correct, identities_of, read_davis, regions_of
from backend.values.errors import RequestError
from backend.video.exports import write_davis
from backend.video.film import open_film
from backend.video.tracks import FrameMask, Track, Tracks
from prompts.geometry import BoolArray, Size
from tests.backend.video.films import Recipe, write_film

SIZE, LENGTH = Size(40, 80), 10


def block(left: int, top: int = 10) -> BoolArray:
    mask = np.zeros((SIZE.height, SIZE.width), np.bool_)
    mask[top : top + 10, left : left + 10] = True
    return mask


def track(number: int, masks: dict[int, BoolArray]) -> Track:
    return Track(number, None, {frame: FrameMask.of(mask, 1.0) for frame, mask in masks.items()})


def tracks(*found: Track) -> Tracks:
    return Tracks(SIZE, LENGTH, found)


TRUTH = tracks(
    track(1, {k: block(2 + 3 * k) for k in range(LENGTH)}), track(2, {k: block(60 - 3 * k, 25) for k in range(LENGTH)})
)


def test_what_equals_the_truth_is_right_in_everything() -> None:
    assert regions_of(TRUTH, TRUTH).mean == 1
    found = identities_of(TRUTH, TRUTH)
    assert (found.hota, found.detection, found.association, found.switches) == (1, 1, 1, 0)


def test_a_mask_that_covers_half_has_half_of_j_on_every_frame_but_the_first() -> None:
    half = {k: block(2 + 3 * k) & (np.arange(SIZE.width) < 7 + 3 * k) for k in range(LENGTH)}

    found = regions_of(TRUTH, tracks(track(1, half), TRUTH.tracks[1]))

    assert found.by_object[1][0] == pytest.approx(0.5)
    assert found.j == pytest.approx(0.75)


def test_an_object_that_is_gone_where_it_is_gone_is_right_and_one_that_was_never_found_is_wrong() -> None:
    shown = {k: block(2) for k in range(4)}

    assert regions_of(tracks(track(1, shown)), tracks(track(1, shown))).j == 1
    assert regions_of(tracks(track(1, shown)), tracks()).j == pytest.approx(6 / 9)


def test_two_objects_that_change_their_ids_half_way_lose_association_and_no_detection() -> None:
    """Each true track is matched by two found ones for five frames each: A(c) = 5 / (10 + 10 - 5) for every match."""
    one, two = (track.masks for track in TRUTH.tracks)
    swapped = tracks(
        Track(1, None, {k: (one if k < 5 else two)[k] for k in range(LENGTH)}),
        Track(2, None, {k: (two if k < 5 else one)[k] for k in range(LENGTH)}),
    )

    found = identities_of(TRUTH, swapped)

    assert found.detection == 1
    assert found.association == pytest.approx(1 / 3)
    assert found.hota == pytest.approx((1 / 3) ** 0.5)
    assert found.switches == 2


def test_masks_with_half_the_iou_count_up_to_that_iou() -> None:
    """Two thirds of both: IoU 0.5, which is enough for the thresholds 0.05 to 0.5, ten of nineteen."""
    moved = tracks(track(1, {k: np.roll(block(20), 10 // 3, axis=1) for k in range(LENGTH)}))
    iou = 7 / 13

    found = identities_of(tracks(track(1, {k: block(20) for k in range(LENGTH)})), moved)

    enough = sum(alpha <= iou for alpha in np.arange(1, 20) * 0.05)
    assert found.detection == pytest.approx(enough / 19)


@given(arrays.arrays(np.float64, st.tuples(st.integers(0, 4), st.integers(0, 5)), elements=st.floats(0, 1)))
def test_the_assignment_has_the_greatest_sum(worth: np.ndarray) -> None:
    pairs = assigned(worth)

    rows, columns = worth.shape
    few, many = sorted((rows, columns))
    every = itertools.permutations(range(many), few)
    best = max(sum(worth[(k, j) if rows <= columns else (j, k)] for k, j in enumerate(each)) for each in every)
    assert len(pairs) == few == len({i for i, _ in pairs}) == len({j for _, j in pairs})
    assert sum(worth[pair] for pair in pairs) == pytest.approx(best)


def test_a_corrector_clicks_until_it_is_good_and_its_time_is_told(tmp_path: Path) -> None:
    """The square jumps over a twin of its colour on frame 6, so that the colour engine goes on with the twin, until a click."""
    pictures, masks = [], {}
    for k in range(12):
        image = np.full((SIZE.height, SIZE.width, 3), 128, np.uint8)
        masks[k] = block(4 + 2 * k) if k < 6 else block(60)
        image[masks[k] | (block(20, 25) if k >= 6 else False)] = (220, 30, 30)
        pictures.append(image)
    film = open_film(write_film(tmp_path / "a.mkv", pictures, Recipe(codec="ffv1")))
    tracker = colour.build(None).tracker
    assert tracker is not None

    done = correct(film, tracker, track(1, masks), 0.85)

    assert done.reached[0] < 0.7
    assert done.needed(0.85) == 2 == len(done.reached)
    assert done.saved(0.85, Assumptions(80, 4, 3, 3)) == pytest.approx(1 - (80 + 7 + 4) / (12 * 80))


def test_a_command_tells_the_prompts_and_the_time_that_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKLOOM_ENGINE", "colour")
    monkeypatch.setenv("MASKLOOM_HOME", str(tmp_path / "home"))
    masks = {k: block(4 + 3 * k) for k in range(LENGTH)}
    pictures = [np.where(mask[..., None], (220, 30, 30), (128, 128, 128)).astype(np.uint8) for mask in masks.values()]
    film = write_film(tmp_path / "a.mkv", pictures, Recipe(codec="ffv1"))
    truth = write_davis(tracks(track(1, masks)), tmp_path / "truth", "a")

    done = CliRunner().invoke(cli, ["video", "corrections", str(film), str(truth), "--enough", "0.7"])

    assert done.exit_code == 0, done.output
    assert "object 1: 1 prompts to J 0.7" in done.stdout
    assert "90% of the time" in done.stdout


def test_davis_pictures_are_compared_by_a_command(tmp_path: Path) -> None:
    truth = write_davis(TRUTH, tmp_path / "truth", "film")
    found = write_davis(tracks(TRUTH.tracks[0]), tmp_path / "found", "film")

    done = CliRunner().invoke(cli, ["video", "compare", str(truth), str(found)])

    assert done.exit_code == 0, done.output
    assert "J&F 0.500" in done.stdout
    assert "identity switches 0" in done.stdout
    assert [len(each.masks) for each in read_davis(truth).tracks] == [LENGTH, LENGTH]


def test_what_is_no_folder_of_masks_of_one_film_is_told(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="there are no masks in"):
        read_davis(tmp_path)
    (tmp_path / "00000.png").write_bytes(b"no picture")
    with pytest.raises(RequestError, match="is no picture"):
        read_davis(tmp_path)
    with pytest.raises(RequestError, match="expected masks of one film"):
        regions_of(TRUTH, Tracks(SIZE, 3, ()))
