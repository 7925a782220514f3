"""Export labels while Label Studio cannot be reached; tests/integration has a real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.base.errors import ExportError
from backend.results.label_export import Exported, export_file
from tests.unit.results.exporter import BO, PROJECT, Exporter


def export(exporter: Exporter, path: Path, *, is_forced: bool = False) -> Exported:
    return export_file(
        exporter.settings, PROJECT, path, is_forced=is_forced, progress=lambda *_: None
    )


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_the_same_state_gives_the_same_bytes(
    suffix: str, exporter: Exporter, tmp_path: Path
) -> None:
    exporter.annotate("1.png", "cat")
    exporter.let_model_label({"3.png": ("dog", 0.9)})
    one, other = (tmp_path / f"{name}{suffix}" for name in ("one", "other"))
    export(exporter, one)
    export(exporter, other)
    assert one.read_bytes() == other.read_bytes()
    exporter.annotate("1.png", "cat", BO)
    export(exporter, other, is_forced=True)
    assert one.read_bytes() != other.read_bytes()


def test_without_label_studio_the_annotations_read_before_are_exported(
    exporter: Exporter, tmp_path: Path
) -> None:
    exporter.annotate("1.png", "cat")
    exporter.annotate("2.png", "horse")
    exporter.let_model_label({"3.png": ("dog", 0.9)})
    exported = export(exporter, tmp_path / "labels.csv")
    assert exported.n_labels == {"people": 1, "model": 1}
    assert exported.left_out == {"unknown class": 1}
    assert exported.read_at == exporter.store.facts().read_at
    assert "cannot be reached" in exported.problem
    assert "ada@example.org" in (tmp_path / "labels.csv").read_text()


def test_tasks_for_label_studio_need_its_label_config(exporter: Exporter, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"need the project's label config: .*cannot be reached"):
        export(exporter, tmp_path / "labels.json")
    assert not (tmp_path / "labels.json").exists()


def test_the_suffix_decides_the_format(exporter: Exporter, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"must end in .csv, .jsonl, .parquet, or .json"):
        export(exporter, tmp_path / "labels.xlsx")
    exporter.annotate("1.png", "cat")
    export(exporter, tmp_path / "LABELS.CSV")
    assert (tmp_path / "LABELS.CSV").read_text().startswith("image,image_id")
