"""The data folder: what may be trained on, what a mask id is called, and which names are certainly absent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.data import closed_vocabularies, load, read_rows


def write_source(folder: Path, name: str, rows: list[dict[str, object]]) -> None:
    source = folder / name
    source.mkdir()
    ids = np.zeros((40, 60), np.uint8)
    ids[5:20, 5:20], ids[5:20, 30:50], ids[30:, :] = 1, 2, 255
    mask = Image.fromarray(ids)
    mask.putpalette(list(range(256)) * 3)
    mask.save(source / "mask.png")
    Image.fromarray(np.full((40, 60, 3), (200, 40, 10), np.uint8)).save(source / "photo.png")
    whole = {"image": "photo.png", "mask": "mask.png", "source": name, "split": "train", "kind": "instance"}
    source.joinpath("index.jsonl").write_text("\n".join(json.dumps({**whole, **row}) for row in rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cups = {"labels": {"1": "cup", "2": "dog"}, "exhaustive": "some"}
    cats = {"labels": {"1": "cat"}, "exhaustive": "some", "split": "val"}
    write_source(tmp_path, "a", [cups, cats])
    write_source(tmp_path, "b", [{"labels": {"1": "bear", "2": "tree"}, "text_complete": {"bear": False}}])
    return tmp_path


def test_a_photo_has_its_ids_names_and_colours(folder: Path) -> None:
    rows = read_rows(folder)
    photo = load(rows, closed_vocabularies(rows))[0]
    assert photo.image[0, 0].tolist() == [200, 40, 10]
    assert photo.regions == [1, 2]
    assert photo.name_mask("dog").sum() == 15 * 20
    assert photo.text_names() == ("cup", "dog")


def test_a_name_is_absent_only_where_the_vocabulary_was_labelled_exhaustively(folder: Path) -> None:
    rows = read_rows(folder)
    photos = load(rows, closed_vocabularies(rows))
    assert [photo.absent for photo in photos] == [("cat",), ("cup", "dog"), ()]


def test_a_name_with_unlabelled_instances_is_not_asked_for_by_text(folder: Path) -> None:
    rows = read_rows(folder)
    assert load(rows, closed_vocabularies(rows))[2].text_names() == ("tree",)


def test_splits_are_kept_apart(folder: Path) -> None:
    assert [row.split for row in read_rows(folder)] == ["train", "val", "train"]


def test_a_folder_without_an_index_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no \*/index.jsonl"):
        read_rows(tmp_path)
