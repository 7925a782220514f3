"""Test the three formats of a list of images, and the errors that name a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backend.base.errors import PoolError
from backend.images.list_file import ListRow, read_list


def read(path: Path, content: str | bytes | list[dict[str, Any]]) -> list[ListRow]:
    if isinstance(content, list):
        pq.write_table(pa.Table.from_pylist(content), path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_list(path))


ROWS = [
    ("a.jpg", "cat", "train"),
    ("b.jpg", "", ""),
    ("c.jpg", "dog", "test"),
    ("d, e.jpg", "dog", "validation"),
    ("s3://b/f.jpg", "猫", "train"),
]


def values(rows: list[ListRow]) -> list[tuple[str, str, str]]:
    return [(row.image, row.label, row.split) for row in rows]


def test_a_csv_file_is_read(tmp_path: Path) -> None:
    rows = read(
        tmp_path / "list.csv",
        "\ufeffsplit, image ,size,label\r\n"
        "train,a.jpg,1,cat\r\n"
        ",b.jpg,2,\r\n"
        "test , c.jpg,3, dog\r\n"
        'validation,"d, e.jpg",4,dog\r\n'
        "\r\n"
        ",s3://b/f.jpg,5,猫\r\n",
    )
    assert values(rows) == ROWS
    assert [row.place for row in rows] == ["line 2", "line 3", "line 4", "line 5", "line 7"]


def test_a_file_of_json_lines_is_read(tmp_path: Path) -> None:
    rows = read(
        tmp_path / "list.jsonl",
        '{"image": "a.jpg", "label": "cat", "split": "train"}\n'
        '{"image": "b.jpg", "label": null, "other": [1]}\n'
        '{"image": "c.jpg", "label": "dog", "split": "test"}\n'
        '{"image": "d, e.jpg", "label": "dog", "split": "validation"}\n'
        "\n"
        '{"image": "s3://b/f.jpg", "label": "猫"}\n',
    )
    assert values(rows) == ROWS
    assert [row.place for row in rows] == ["line 1", "line 2", "line 3", "line 4", "line 6"]


def test_a_parquet_file_is_read(tmp_path: Path) -> None:
    rows = read(
        tmp_path / "list.parquet",
        [{"n": 1, "image": i, "label": label or None, "split": s or None} for i, label, s in ROWS],
    )
    assert values(rows) == ROWS
    assert rows[3].place == "row 4"


def test_a_label_may_be_a_number(tmp_path: Path) -> None:
    csv = read(tmp_path / "list.csv", "image,label\na.jpg,07\n")
    jsonl = read(tmp_path / "list.jsonl", '{"image": "a.jpg", "label": 7}\n')
    parquet = read(tmp_path / "list.parquet", [{"image": "a.jpg", "label": 7}])
    assert [rows[0].label for rows in (csv, jsonl, parquet)] == ["07", "7", "7"]


def test_only_labeled_images_are_in_the_train_split(tmp_path: Path) -> None:
    rows = read(tmp_path / "list.csv", "image,label,split\na.jpg,,train\nb.jpg,cat,\n")
    assert values(rows) == [("a.jpg", "", ""), ("b.jpg", "cat", "train")]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("", "the list has no rows"),
        ("image,label\n", "the list has no rows"),
        ("path,class\na.jpg,cat\n", r"needs a column 'image', and may have .*: 'path', 'class'"),
        ("images,label\na.jpg,cat\n", "the column 'images' looks like 'image': rename it"),
        ("image,labels\na.jpg,cat\n", r"'labels' looks like 'label': .* 'image', 'labels'"),
        ("image,Split\na.jpg,train\n", "the column 'Split' looks like 'split': rename it"),
        ("image;label\na.jpg;cat\n", "needs a column 'image', .* found: 'image;label'"),
        ("image,split\na.jpg,\nb.jpg,val\n", "line 3: the split 'val' is not allowed: use train"),
        ("image,split\na.jpg,test\n", "line 2: an image in the test split needs a label"),
        ("image,label\na.jpg,\n,cat\n", "line 3: the image is missing"),
        ("image,label\na, b.jpg,cat\n", "line 2 has too many values: put values with commas in"),
        ('image,label\n"a.jpg,cat\n', "unexpected end of data"),
        ("image\ncaf\u00e9.jpg\n".encode("latin-1"), "the list is not UTF-8: save it as UTF-8"),
    ],
)
def test_a_csv_file_with_a_fault_is_an_error_that_names_it(
    tmp_path: Path, content: str | bytes, error: str
) -> None:
    with pytest.raises(PoolError, match=rf"POOL=.*/list\.csv: .*{error}"):
        read(tmp_path / "list.csv", content)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("", "the list has no rows"),
        ('{"image": "a.jpg"}\n{"image"\n', r"line 2 is not a JSON object like \{"),
        ('["a.jpg"]\n', r"line 1 is not a JSON object like \{"),
        ('{"image": "a.jpg"}\n{"label": "cat"}\n', "line 2: the image is missing"),
        (
            '{"image": "a.jpg"}\n{"image": "b", "lable": "c"}\n',
            "the column 'lable' looks like 'label'",
        ),
        ('{"image": ["a.jpg"]}\n', r"line 1: the image must be text, not \"\['a.jpg'\]\""),
        ('{"image": "a.jpg", "label": 1.5}\n', "line 1: the label must be text, not '1.5'"),
        ('{"image": "a.jpg", "label": true}\n', "line 1: the label must be text, not 'True'"),
    ],
)
def test_json_lines_with_a_fault_are_an_error_that_names_it(
    tmp_path: Path, content: str, error: str
) -> None:
    with pytest.raises(PoolError, match=rf"POOL=.*/list\.jsonl: {error}"):
        read(tmp_path / "list.jsonl", content)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("no Parquet", "Parquet magic bytes not found"),
        ([{"image": "a.jpg", "lable": "cat"}], "the column 'lable' looks like 'label'"),
        ([{"file": "a.jpg"}], "needs a column 'image', .* found: 'file'"),
        ([{"image": {"bytes": b"123"}}], "row 1: the image must be text"),
    ],
)
def test_a_parquet_file_with_a_fault_is_an_error_that_names_it(
    tmp_path: Path, content: str | list[dict[str, Any]], error: str
) -> None:
    with pytest.raises(PoolError, match=rf"POOL=.*/list\.parquet: .*{error}"):
        read(tmp_path / "list.parquet", content)


def test_a_list_that_vanished_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=r"the list cannot be read \(No such file"):
        list(read_list(tmp_path / "list.csv"))
