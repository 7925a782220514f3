"""Read the rows of a list of images: CSV, JSON Lines, or Parquet."""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from backend.base.errors import PoolError
from backend.images.listing import ListedSplit

COLUMNS = ("image", "label", "split")
SPLITS: dict[str, ListedSplit] = {"": "", **{s: s for s in ("train", "validation", "test")}}


@dataclass(frozen=True, slots=True)
class ListRow:
    """One row of a list."""

    place: str  # "line 7" of a text file, or "row 7"
    image: str
    label: str  # "" if unknown
    split: ListedSplit  # "" implies no label, "train" implies a label


def read_list(path: Path) -> Iterator[ListRow]:
    """Yield the rows of a list whose suffix is in LIST_FORMATS. Raises PoolError."""
    columns: dict[str, None] = {}  # in the order in which they are found
    try:
        for place, row in LIST_FORMATS[path.suffix.lower()](path):
            if not row.keys() <= columns.keys():
                columns |= dict.fromkeys(row)
                _check_columns(columns)
            yield _parse(place, row)
    except UnicodeDecodeError:
        raise PoolError(f"POOL={path}: the list is not UTF-8: save it as UTF-8") from None
    except OSError as error:
        raise PoolError(f"POOL={path}: the list cannot be read ({error.strerror})") from None
    except (ValueError, csv.Error, pa.ArrowException) as error:
        raise PoolError(f"POOL={path}: {error}") from None
    if not columns:
        raise PoolError(f"POOL={path}: the list has no rows")


def _check_columns(found: Iterable[str]) -> None:
    names = ", ".join(map(repr, found))
    for name in sorted({*COLUMNS} - {*found}):
        if similar := difflib.get_close_matches(name, {*found} - {*COLUMNS}, n=1, cutoff=0.7):
            raise ValueError(
                f"the column {similar[0]!r} looks like {name!r}: rename it (found: {names})"
            )
    if "image" not in found:
        raise ValueError(
            f"the list needs a column 'image', and may have 'label' and 'split'; found: {names}"
        )


def _parse(place: str, row: Mapping[str, Any]) -> ListRow:
    """Check the values of a row. Raises ValueError with a message that names the row."""
    image, label, split = (_text(place, name, row.get(name)) for name in COLUMNS)
    if not image:
        raise ValueError(f"{place}: the image is missing")
    if split not in SPLITS:
        raise ValueError(
            f"{place}: the split {split!r} is not allowed: use train, validation, test, or nothing"
        )
    if split in ("validation", "test") and not label:
        raise ValueError(f"{place}: an image in the {split} split needs a label")
    usual: ListedSplit = "train" if label else ""
    return ListRow(place, image, label, SPLITS[split] if split not in ("", "train") else usual)


def _text(place: str, name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool) and name == "label":
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"{place}: the {name} must be text, not {str(value)[:100]!r}")
    return value.strip()


def _read_csv(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with path.open(newline="", encoding="utf-8-sig") as file:  # Excel writes a byte order mark
        lines = csv.DictReader(file, skipinitialspace=True, strict=True)
        if lines.fieldnames is None:
            return
        lines.fieldnames = [name.strip() for name in lines.fieldnames]
        _check_columns(lines.fieldnames)
        for row in lines:
            place = f"line {lines.line_num}"
            if None in row:
                raise ValueError(f"{place} has too many values: put values with commas in quotes")
            yield place, row


def _read_jsonl(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise ValueError(f'line {number} is not a JSON object like {{"image": "a.jpg"}}')
            yield f"line {number}", row


def _read_parquet(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with pq.ParquetFile(path) as file:
        found = file.schema_arrow.names
        _check_columns(found)
        number = 0
        for batch in file.iter_batches(columns=[name for name in COLUMNS if name in found]):
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", row


LIST_FORMATS = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
