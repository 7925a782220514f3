"""Write labels as CSV, JSON Lines, Parquet, or tasks that Label Studio can import."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from operator import attrgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from backend.base.labeling import LabelConfig, Prediction
from backend.labelstudio.rows import prediction_result, write_prediction
from backend.results.label_rows import LABEL_COLUMNS, LabelRow

# The type of every column in a Parquet file, if it is not text
TYPES = {
    "label_probability": pa.float64(),
    "annotations": pa.int64(),
    "annotated_at": pa.timestamp("ms", tz="UTC"),
    "asked_round": pa.int64(),
    "model_confidence": pa.float64(),
    "is_removed": pa.bool_(),
}
_values = attrgetter(*LABEL_COLUMNS)  # of a row; dataclasses.astuple would take ten times as long
SCHEMA = pa.schema((name, TYPES.get(name, pa.string())) for name in LABEL_COLUMNS)


def write_csv(path: Path, rows: Sequence[LabelRow]) -> None:
    """Write a header and a line per image; an unknown value is empty."""
    with path.open("w", encoding="utf-8", newline="") as file:
        # Lines end as in RFC 4180. With "\n", Python would not quote names that contain "\r".
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(LABEL_COLUMNS)
        writer.writerows([_as_text(value) for value in _values(row)] for row in rows)


def write_json_lines(path: Path, rows: Sequence[LabelRow]) -> None:
    """Write a JSON object for each image; an unknown value is null."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{_as_json(_fields(row))}\n" for row in rows)


def write_parquet(path: Path, rows: Sequence[LabelRow]) -> None:
    """Write a row for each image, with the column types in SCHEMA."""
    columns = zip(*map(_values, rows), strict=True) if rows else [[]] * len(LABEL_COLUMNS)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), path)


# The function that writes files with a given suffix
WRITERS: dict[str, Callable[[Path, Sequence[LabelRow]], None]] = {
    ".csv": write_csv,
    ".jsonl": write_json_lines,
    ".parquet": write_parquet,
}
LABEL_STUDIO_SUFFIX = ".json"


def write_tasks(path: Path, rows: Sequence[LabelRow], config: LabelConfig) -> None:
    """Write a list of tasks that Label Studio can import into a project with this label config.

    A label by the model becomes a prediction, and every other label an annotation. Raises
    LabelConfigError if a label is not among the label config's choices.
    """
    with path.open("w", encoding="utf-8") as file:
        file.write("[\n")
        for number, row in enumerate(rows):
            file.write(f"{',' * bool(number)}{_as_json(_task(row, config))}\n")
        file.write("]\n")


def _task(row: LabelRow, config: LabelConfig) -> dict[str, Any]:
    task: dict[str, Any] = {"data": {**_fields(row), config.image_key: row.image}}
    if row.labeled_by == "model":
        share = row.model_confidence or 0.0
        prediction = Prediction(row.label, share, share, row.model_version or "")
        task["predictions"] = [write_prediction(config, prediction)]
    else:
        is_truth = row.labeled_by == "ground truth"
        result = prediction_result(config, row.label)
        task["annotations"] = [{"result": result, "ground_truth": is_truth}]
    return task


def _fields(row: LabelRow) -> dict[str, Any]:
    return dict(zip(LABEL_COLUMNS, map(_plain, _values(row)), strict=True))


def _plain(value: Any) -> Any:
    return value.isoformat()[:19] + "Z" if isinstance(value, datetime) else value


def _as_text(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else _plain(value)


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
