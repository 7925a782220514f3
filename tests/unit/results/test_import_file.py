"""Test reading files of labels that were made elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.base.errors import LabelFileError
from backend.results.import_file import ImportedLabel, LabelFile, read_label_file
from backend.results.label_files import write_csv
from backend.results.label_rows import LabeledBy, LabelRow

IMAGES = {"a.jpg": "1a", "b, c.jpg": "2b", "2b": "2b"}
CLASSES = {"cat": "cat", "Dog": "dog", "dog": "dog"}


def find_image(name: str) -> str:
    if name not in IMAGES:
        raise ValueError("is not in the pool")
    return IMAGES[name]


def read(path: Path, content: str | bytes) -> LabelFile:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_label_file(path, find_image, CLASSES.get)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "labels.csv"


def fault_of(path: Path, content: str | bytes) -> str:
    with pytest.raises(LabelFileError) as refused:
        read(path, content)
    return str(refused.value)


def test_images_are_found_by_name_or_id_and_classes_are_spelled_as_in_the_project(
    path: Path,
) -> None:
    content = 'image,label,annotator\na.jpg,Dog,Ann@Example.org\n"b, c.jpg", cat ,\n'
    assert read(path, content).labels == (
        ImportedLabel("1a", "dog", "ann@example.org"),
        ImportedLabel("2b", "cat", ""),
    )


def test_excels_byte_order_mark_and_line_ends_are_read(path: Path) -> None:
    content = "\ufefflabel,image\r\ncat,a.jpg\r\n"
    assert read(path, content).labels == (ImportedLabel("1a", "cat", ""),)


def test_every_wrong_line_is_listed_with_its_number(path: Path) -> None:
    content = (
        "image,label,annotator\n"
        "a.jpg,cat,ann@x.org\n"
        "a.jpg,dog,ANN@x.org\n"
        ",cat,\n"
        "a.jpg,,\n"
        "a.jpg,bird,\n"
        "z.jpg,cat,\n"
        "a.jpg,cat\n"
        "a.jpg,cat,,\n"
    )
    assert fault_of(path, content).splitlines()[1:] == [
        "  line 3: repeats line 2: the same image and annotator",
        "  line 4: the image is missing",
        "  line 5: the label is missing",
        "  line 6: the label 'bird' is not a class of the project",
        "  line 7: the image 'z.jpg' is not in the pool",
        "  line 8: has too few values",
        "  line 9: has too many values: put commas in double quotes",
    ]


def test_at_most_ten_wrong_lines_are_shown(path: Path) -> None:
    fault = fault_of(path, "image,label\n" + "a.jpg,bird\n" * 1012)
    assert len(fault.splitlines()) == 12
    assert fault.endswith(
        "line 11: the label 'bird' is not a class of the project\n  and 1,002 more"
    )


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("image,labels,annotator", "missing: label; found: 'image', 'labels', 'annotator'"),
        ("image,label,anotator", "'anotator' is unknown: rename it to 'annotator'"),
        ("image,label,comment", "'comment' is unknown: remove it"),
        ("image,label,label", "'label' appears twice"),
        ("image;label;annotator", "separated by commas"),
        ("", "found: nothing"),
    ],
)
def test_a_wrong_header_is_explained(path: Path, header: str, reason: str) -> None:
    assert reason in fault_of(path, f"{header}\na.jpg,cat,\n")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("image,label\na.jpg,cat\n".encode("utf-16"), "is not UTF-8"),
        (b"image,label\na\xff.jpg,cat\n", "is not UTF-8"),
        (b'image,label\n"a.jpg,cat\n', "line 2"),
    ],
)
def test_a_file_that_is_not_csv_in_utf_8_is_refused(
    path: Path, content: bytes, reason: str
) -> None:
    assert reason in fault_of(path, content)


def test_a_missing_file_is_named(path: Path) -> None:
    with pytest.raises(LabelFileError, match=r"labels\.csv cannot be read \(No such file"):
        read_label_file(path, find_image, CLASSES.get)


def exported(image_id: str, label: str, labeled_by: LabeledBy, annotators: str) -> LabelRow:
    return LabelRow(
        image="a.jpg",
        image_id=image_id,
        split="train",
        label=label,
        labeled_by=labeled_by,
        label_probability=0.9,
        annotations=1,
        annotators=annotators,
        annotated_at=None,
        asked_round=None,
        asked_version=None,
        asked_strategy=None,
        model_version=None,
        model_label=None,
        model_confidence=None,
        is_removed=False,
    )


def test_exported_labels_are_read_without_those_by_the_model(path: Path) -> None:
    """Import a label with several annotators as one without, as it is unknown what each chose."""
    rows = [
        exported("2b", "cat", "people", "ann@x.org"),
        exported("of another pool", "dog", "people", "ann@x.org;bo@x.org"),
        exported("2b", "dog", "data set", ""),
        exported("2b", "cat", "model", ""),
    ]
    write_csv(path, rows)
    found = read_label_file(path, find_image, CLASSES.get)
    assert found.n_by_model == 1
    assert found.labels == (
        ImportedLabel("2b", "cat", "ann@x.org"),
        ImportedLabel("1a", "dog", ""),
        ImportedLabel("2b", "dog", ""),
    )
