"""Write labels in every format, and read the files with the libraries that people use."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from backend.base.errors import LabelConfigError
from backend.base.labeling import LabelConfig
from backend.results.label_files import WRITERS, write_csv, write_json_lines, write_tasks
from backend.results.label_rows import LABEL_COLUMNS, LabelRow

CAT = LabelRow(
    image="cats/1.jpg",
    image_id="0a",
    split="train",
    label="cat",
    labeled_by="people",
    label_probability=0.9,
    annotations=2,
    annotators="ada@example.org;bo@example.org",
    annotated_at=datetime(2026, 1, 1, 12, 0, 3, tzinfo=UTC),
    asked_round=3,
    asked_version="r0003",
    asked_strategy="margin",
    model_version="r0004",
    model_label="dog",
    model_confidence=0.7,
    is_removed=False,
)
DOG = LabelRow(
    "dogs/2.jpg", "0b", "train", "dog", "model", 0.97, 0, "", None, None, None, None,
    "r0003", "dog", 0.97, is_removed=True,
)  # fmt: skip
ODD = (
    'comma, "quotes".jpg',
    "line\nbreak.jpg",
    "carriage\rreturn.jpg",
    "=cmd|' /C calc'!A0.jpg",
    "Ümläut 猫.jpg",
    "quoted:%FF.jpg",  # a path that is not UTF-8, as the index stores it
)
CONFIG = LabelConfig("label", "image", "image", ("cat", "dog"))


def test_csv_has_a_header_and_a_line_per_image_and_leaves_unknown_values_empty(
    tmp_path: Path,
) -> None:
    write_csv(path := tmp_path / "labels.csv", [CAT, DOG])
    header, cat, dog = path.read_text().splitlines()
    assert header == ",".join(LABEL_COLUMNS)
    assert cat == (
        "cats/1.jpg,0a,train,cat,people,0.9,2,ada@example.org;bo@example.org,2026-01-01T12:00:03Z,"
        "3,r0003,margin,r0004,dog,0.7,false"
    )
    assert dog == "dogs/2.jpg,0b,train,dog,model,0.97,0,,,,,,r0003,dog,0.97,true"


def test_pandas_finds_the_types_of_all_columns(tmp_path: Path) -> None:
    write_csv(path := tmp_path / "labels.csv", [CAT, replace(CAT, image_id="0c")])
    table = pd.read_csv(path, parse_dates=["annotated_at"])
    assert table["annotations"].tolist() == [2, 2]
    assert table["label_probability"].mean() == pytest.approx(0.9)
    assert table["annotated_at"][0] == pd.Timestamp("2026-01-01T12:00:03Z")
    assert not table["is_removed"].any()


@pytest.mark.parametrize("name", ODD)
def test_odd_names_come_back_unchanged(name: str, tmp_path: Path) -> None:
    rows = [replace(CAT, image=name, label=name), DOG]
    write_csv(tmp_path / "labels.csv", rows)
    write_json_lines(tmp_path / "labels.jsonl", rows)
    with (tmp_path / "labels.csv").open(newline="", encoding="utf-8") as file:
        first, _ = csv.DictReader(file)
    assert (first["image"], first["label"]) == (name, name)
    assert pd.read_csv(tmp_path / "labels.csv")["image"][0] == name
    first, _ = map(json.loads, (tmp_path / "labels.jsonl").read_text().splitlines())
    assert (first["image"], first["label"]) == (name, name)


def test_json_lines_have_numbers_booleans_and_nulls(tmp_path: Path) -> None:
    write_json_lines(path := tmp_path / "labels.jsonl", [DOG])
    assert json.loads(path.read_text()) == {
        "image": "dogs/2.jpg", "image_id": "0b", "split": "train", "label": "dog",
        "labeled_by": "model", "label_probability": 0.97, "annotations": 0, "annotators": "",
        "annotated_at": None, "asked_round": None, "asked_version": None, "asked_strategy": None,
        "model_version": "r0003", "model_label": "dog", "model_confidence": 0.97,
        "is_removed": True,
    }  # fmt: skip


def test_parquet_has_typed_columns(tmp_path: Path) -> None:
    WRITERS[".parquet"](path := tmp_path / "labels.parquet", [CAT, DOG])
    table = pq.read_table(path)
    assert table.column_names == list(LABEL_COLUMNS)
    assert table["annotated_at"].to_pylist() == [CAT.annotated_at, None]
    assert table["asked_round"].to_pylist() == [3, None]
    assert table["is_removed"].to_pylist() == [False, True]


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_project_without_labels_gives_a_file_with_the_same_columns(
    suffix: str, tmp_path: Path
) -> None:
    WRITERS[suffix](path := tmp_path / f"labels{suffix}", [])
    if suffix == ".csv":
        assert path.read_text().splitlines() == [",".join(LABEL_COLUMNS)]
    elif suffix == ".jsonl":
        assert path.read_text() == ""
    else:
        assert pq.read_table(path).column_names == list(LABEL_COLUMNS)


def test_tasks_have_annotations_except_for_labels_by_the_model(tmp_path: Path) -> None:
    truth = replace(CAT, image_id="0c", labeled_by="ground truth")
    write_tasks(path := tmp_path / "labels.json", [CAT, truth, DOG], CONFIG)
    cat, star, dog = json.loads(path.read_text())
    assert cat["data"]["image"] == "cats/1.jpg"
    assert cat["data"]["annotators"] == "ada@example.org;bo@example.org"
    [annotation] = cat["annotations"]
    assert annotation["result"][0]["value"] == {"choices": ["cat"]}
    assert [annotation["ground_truth"], star["annotations"][0]["ground_truth"]] == [False, True]
    assert "predictions" not in cat
    [prediction] = dog["predictions"]
    assert prediction["result"][0]["value"] == {"choices": ["dog"]}
    assert (prediction["score"], prediction["model_version"]) == (0.97, "r0003")
    assert "annotations" not in dog


def test_the_image_goes_where_the_label_config_looks_for_it(tmp_path: Path) -> None:
    config = LabelConfig("kind", "photo", "label", ("cat", "dog"))  # also the name of a column
    write_tasks(path := tmp_path / "labels.json", [CAT], config)
    [task] = json.loads(path.read_text())
    assert task["data"]["label"] == "cats/1.jpg"
    [region] = task["annotations"][0]["result"]
    assert (region["from_name"], region["to_name"]) == ("kind", "photo")


def test_a_label_that_the_label_config_does_not_offer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LabelConfigError, match="'cat' is not among"):
        write_tasks(tmp_path / "labels.json", [CAT], LabelConfig("l", "i", "image", ("a", "b")))
