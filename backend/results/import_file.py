"""Read and check a CSV file of labels that were made elsewhere."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from backend.base.errors import LabelFileError

COLUMNS = ("image", "label", "annotator")
NEEDED = ("image", "label")
# A file that we exported has one row for each image, with all annotators of the image.
EXPORT_COLUMNS = ("image", "image_id", "label", "labeled_by", "annotators")
BY_MODEL = "model"
FAULTS_SHOWN = 10
SHOWN_CHARS = 80
MANY = ";"  # separates the annotators of an exported label


@dataclass(frozen=True, slots=True)
class ImportedLabel:
    """One label in the file."""

    image_id: str
    label: str  # a current class, spelled as in the label config
    annotator: str  # an email address in lower case; "" = the label comes from the data set


@dataclass(frozen=True)
class LabelFile:
    """All labels in a file, which has passed every check."""

    labels: tuple[ImportedLabel, ...]
    n_by_model: int  # labels by the model, which are not imported


class Faults:
    """Collect what is wrong in a file, so that one message can list all faults."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: list[str] = []

    def add(self, line: int, fault: str) -> None:
        """Record what is wrong in a line."""
        self._found.append(f"line {line}: {fault}")

    def check(self) -> None:
        """Raise LabelFileError if anything was recorded."""
        if not self._found:
            return
        listed = "".join(f"\n  {fault}" for fault in self._found[:FAULTS_SHOWN])
        n_more = len(self._found) - FAULTS_SHOWN
        more = f"\n  and {n_more:,} more" if n_more > 0 else ""
        raise LabelFileError(
            f"{self._path} cannot be imported, and nothing was changed: correct these lines"
            f"{listed}{more}"
        )


def read_label_file(
    path: Path, find_image: Callable[[str], str], find_class: Callable[[str], str | None]
) -> LabelFile:
    """Read a CSV file with the columns `image`, `label` and `annotator`, or our own labels.csv.

    `find_image` returns the id of an image, or raises ValueError with the reason why there is none.
    `find_class` returns the current class to which a label refers, or None. Raises LabelFileError
    if any line is wrong; the message lists the first FAULTS_SHOWN such lines.
    """
    faults = Faults(path)
    labels: list[ImportedLabel] = []
    lines: dict[tuple[str, str], int] = {}  # by image and annotator
    n_by_model = 0
    for line, row in _rows(path, faults):
        if row.get("labeled_by") == BY_MODEL:
            n_by_model += 1
            continue
        label = _read_row(line, row, faults, find_image, find_class)
        if label is None:
            continue
        key = (label.image_id, label.annotator)
        if earlier := lines.setdefault(key, line) - line:
            faults.add(line, f"repeats line {line + earlier}: the same image and annotator")
        labels.append(label)
    faults.check()
    return LabelFile(tuple(labels), n_by_model)


def _read_row(
    line: int,
    row: Mapping[str, str],
    faults: Faults,
    find_image: Callable[[str], str],
    find_class: Callable[[str], str | None],
) -> ImportedLabel | None:
    """Return the label in a row, or record what is wrong and return None."""
    names = [name for name in (row.get("image_id"), row["image"]) if name]
    label = find_class(row["label"])
    if not names:
        faults.add(line, "the image is missing")
    elif not row["label"]:
        faults.add(line, "the label is missing")
    elif label is None:
        faults.add(line, f"the label {_shown(row['label'])} is not a class of the project")
    if not names or label is None:
        return None
    reason = ""
    for name in names:
        try:
            return ImportedLabel(find_image(name), label, _annotator(row))
        except ValueError as error:
            reason = f"the image {_shown(name)} {error}"
    faults.add(line, reason)
    return None


def _annotator(row: Mapping[str, str]) -> str:
    """Return the annotator of a row, or "" if it names none or several.

    If an exported label has several annotators, the file does not contain what each of them chose.
    """
    names = row.get("annotator") or row.get("annotators") or ""
    return "" if MANY in names else names.strip().casefold()


def _rows(path: Path, faults: Faults) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the last line number of each row, and the row without spaces around its values.

    Raises LabelFileError if the file cannot be read, or if its header is wrong.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # Excel writes a byte order mark
            rows = csv.DictReader(file, skipinitialspace=True, strict=True)
            rows.fieldnames = [name.strip() for name in rows.fieldnames or ()]
            _check_columns(path, rows.fieldnames)
            for row in rows:
                if None in row:
                    faults.add(rows.line_num, "has too many values: put commas in double quotes")
                elif None in row.values():
                    faults.add(rows.line_num, "has too few values")
                else:
                    yield rows.line_num, {name: value.strip() for name, value in row.items()}
    except UnicodeDecodeError:
        raise LabelFileError(f"{path} is not UTF-8: save it as CSV in UTF-8") from None
    except OSError as error:
        raise LabelFileError(f"{path} cannot be read ({error.strerror})") from None
    except csv.Error as error:
        raise LabelFileError(f"{path}, line {rows.reader.line_num}: {error}") from None


def _check_columns(path: Path, found: Iterable[str]) -> None:
    """Raise LabelFileError if the header lacks a column that is needed, or has an unknown one."""
    names = [*found]
    shown = ", ".join(map(_shown, names)) or "nothing"
    if repeated := {name for name in names if names.count(name) > 1}:
        raise LabelFileError(f"{path}: the column {_shown(min(repeated))} appears twice")
    needed = EXPORT_COLUMNS if "labeled_by" in names else NEEDED
    if lacking := [name for name in needed if name not in names]:
        raise LabelFileError(
            f"{path}: the first line must name the columns {', '.join(COLUMNS)}, separated by "
            f"commas (annotator may be left out); missing: {', '.join(lacking)}; found: {shown}"
        )
    unknown = [name for name in names if name not in COLUMNS]
    if unknown and needed is NEEDED:
        similar = difflib.get_close_matches(unknown[0], COLUMNS, n=1)
        remedy = f"rename it to {similar[0]!r}" if similar else "remove it"
        raise LabelFileError(
            f"{path}: the column {_shown(unknown[0])} is unknown: {remedy} (known columns: "
            f"{', '.join(COLUMNS)})"
        )


def _shown(value: str) -> str:
    return repr(value if len(value) <= SHOWN_CHARS else f"{value[:SHOWN_CHARS]}…")
