"""Export with the command, while Label Studio cannot be reached."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.base.errors import ExportError
from backend.store.registry import Registry
from scripts import export
from tests.unit.images.image_folders import save_image
from tests.unit.results.exporter import Exporter, set_up
from tests.unit.store.test_registry import meta, save

Command = Callable[..., tuple[str, str]]


@pytest.fixture
def exporter(tmp_path: Path) -> Exporter:
    for i in range(3):
        save_image(tmp_path / f"pool/{i}.png", (i, 0, 0))
    return set_up(tmp_path)


@pytest.fixture
def command(
    exporter: Exporter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Run the command in an empty folder; return what it prints to both streams."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(export, "load_settings", lambda: exporter.settings)

    def run(*arguments: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["export", *arguments])
        assert export.main() == 0
        printed = capsys.readouterr()
        return printed.out, printed.err

    return run


def test_labels_are_written_here_and_counted_by_who_gave_them(
    exporter: Exporter, command: Command, tmp_path: Path
) -> None:
    exporter.annotate("0.png", "cat")
    exporter.annotate("1.png", "dog", None)
    exporter.let_model_label({"2.png": ("dog", 0.9)})
    printed, _ = command("labels")
    assert printed == "labels.csv: 3 labels (1 by people, 1 by the data set, 1 by the model)\n"
    assert len((tmp_path / "here/labels.csv").read_text().splitlines()) == 4


def test_it_says_which_annotations_are_missing_and_why(
    exporter: Exporter, command: Command
) -> None:
    exporter.annotate("0.png", "horse")
    printed, notes = command("labels", "labels.jsonl")
    assert printed == "labels.jsonl: 0 labels\n"
    assert "cannot be reached" in notes
    assert "the export includes annotations until 2026-01-01 00:00:00 UTC\n" in notes
    unused = (
        "annotations that could not be used: 1 of a class that the label config never offered\n"
    )
    assert unused in notes


def test_a_folder_has_the_images_and_names_those_that_cannot_be_read(
    exporter: Exporter, command: Command, tmp_path: Path
) -> None:
    exporter.annotate("0.png", "cat")
    exporter.annotate("1.png", "dog")
    (exporter.pool / "1.png").unlink()
    printed, notes = command("labels", "--layout", "folder", "--copy")
    assert printed == "labels: 2 labels (2 by people)\n"
    assert (tmp_path / f"here/labels/train/cat/{exporter.ids['0.png']}.png").is_file()
    assert "1 image is only in labels.csv, because it cannot be read: '1.png'" in notes


def test_an_existing_file_is_replaced_only_with_force(
    exporter: Exporter, command: Command, tmp_path: Path
) -> None:
    exporter.annotate("0.png", "cat")
    (tmp_path / "here/labels.csv").write_text("mine")
    with pytest.raises(ExportError, match="--force"):
        command("labels")
    command("labels", "--force")
    assert (tmp_path / "here/labels.csv").read_text() != "mine"


def test_copy_needs_the_layout_folder(command: Command) -> None:
    with pytest.raises(SystemExit):
        command("labels", "--copy")


def test_the_version_in_service_is_exported_here_without_onnx_if_it_is_not_installed(
    exporter: Exporter, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    save(exporter.root, meta())
    Registry(exporter.root).promote("r0001")
    printed, notes = command("model")
    assert printed == "r0001: README.md explains how to use the model\n"
    assert notes.startswith("model.onnx was left out, because onnx, onnxruntime and onnxscript")
    assert notes.endswith(": `make install` installs them\n")
    assert (tmp_path / "here/r0001/predict.py").is_file()
    assert not (tmp_path / "here/r0001/model.onnx").exists()


def test_a_named_version_is_exported_to_a_named_folder(
    exporter: Exporter, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    save(exporter.root, meta(1))
    save(exporter.root, meta(2))
    Registry(exporter.root).promote("r0001")
    command("model", "r0002", "--folder", "birds")
    with pytest.raises(ExportError, match="--force"):
        command("model", "--folder", "birds")
    metrics = (tmp_path / "here/birds/metrics.json").read_text()
    assert '"version": "r0002"' in metrics
