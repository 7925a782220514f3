"""Export the results of a project: its labels or its model.

    python -m scripts.export labels
    python -m scripts.export labels labels.parquet
    python -m scripts.export labels dataset --layout folder
    python -m scripts.export model
    python -m scripts.export model r0007 --folder birds-model

Labels are exported as of one moment, so people can keep labeling. A model is exported as a folder
that works without Tightloop. The same state always gives the same bytes.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from backend.base.command_line import CommandParser, run
from backend.base.settings import Settings, load_settings
from backend.results.label_export import Exported, export_file, export_folder
from backend.results.model_export import export_model
from backend.rounds.annotation_use import name_reasons
from backend.store.project_record import pick_project, project_root
from scripts.console.options import add_project_option
from scripts.console.progress_bars import progress_bar

WHOSE = {
    "people": "by people",
    "ground truth": "ground truth",
    "data set": "by the data set",
    "model": "by the model",
}
FAULTS_SHOWN = 10


def main() -> int:
    """Export labels or a model."""
    parser = CommandParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    labels = commands.add_parser("labels", help="export every labeled image", description=__doc__)
    _add_labels_options(labels)
    labels.set_defaults(export=partial(_export_labels, labels))
    model = commands.add_parser("model", help="export a model version", description=__doc__)
    _add_model_options(model)
    model.set_defaults(export=_export_model)
    add_project_option(parser, labels, model)
    arguments = parser.parse_args()
    settings = load_settings()
    project_id = pick_project(settings.model_dir, arguments.project)
    arguments.export(settings, project_id, arguments)
    return 0


def _add_labels_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "path",
        type=Path,
        nargs="?",
        help="the file to write: .csv, .jsonl, .parquet, or .json for tasks that Label Studio can "
        "import (default: labels.csv); with --layout folder, the folder to write (default: labels)",
    )
    parser.add_argument(
        "--layout",
        choices=("file", "folder"),
        default="file",
        help="with `folder`, write labels.csv and the images in folders train/<class>/, as links "
        "if the image files are on this machine, and otherwise as copies (default: file)",
    )
    parser.add_argument("--copy", action="store_true", help="with --layout folder, copy all images")
    parser.add_argument(
        "--force", action="store_true", help="replace the file, or the folder of an earlier export"
    )


def _add_model_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "version",
        nargs="?",
        help="the version's name, for example r0007 (default: the version in service)",
    )
    parser.add_argument(
        "--folder", type=Path, help="the folder to write (default: the version's name)"
    )
    parser.add_argument(
        "--force", action="store_true", help="replace the folder of an earlier export"
    )


def _export_labels(
    parser: ArgumentParser, settings: Settings, project_id: int, arguments: Namespace
) -> None:
    if arguments.copy and arguments.layout != "folder":
        parser.error("--copy needs --layout folder")
    with progress_bar() as progress:
        if arguments.layout == "folder":
            path = arguments.path or Path("labels")
            exported = export_folder(
                settings,
                project_id,
                path,
                is_forced=arguments.force,
                has_copies=arguments.copy,
                progress=progress,
            )
        else:
            path = arguments.path or Path("labels.csv")
            exported = export_file(
                settings, project_id, path, is_forced=arguments.force, progress=progress
            )
    for remark in _remarks(exported):
        print(remark, file=sys.stderr)
    print(f"{path}: {_describe_labels(exported)}")


def _export_model(settings: Settings, project_id: int, arguments: Namespace) -> None:
    with progress_bar() as progress:
        folder, notice = export_model(
            project_root(settings.model_dir, project_id),
            arguments.version,
            arguments.folder,
            is_forced=arguments.force,
            progress=progress,
        )
    if notice:
        print(notice, file=sys.stderr)
    print(f"{folder}: README.md explains how to use the model")


def _describe_labels(exported: Exported) -> str:
    n_labels = exported.n_labels
    parts = [f"{n_labels[key]:,} {whose}" for key, whose in WHOSE.items() if n_labels[key]]
    return f"{n_labels.total():,} labels" + (f" ({', '.join(parts)})" if parts else "")


def _remarks(exported: Exported) -> list[str]:
    """Return what to tell the user about missing annotations, predictions and images."""
    remarks = []
    if exported.problem:
        read_at = datetime.fromtimestamp(exported.read_at, UTC)
        included = (
            f"annotations until {read_at:%Y-%m-%d %H:%M:%S} UTC"
            if exported.read_at
            else "no annotations, because none have been read yet"
        )
        remarks.append(f"{exported.problem}; the export includes {included}")
    if exported.model_problem:
        remarks.append(f"{exported.model_problem}; the columns model_… are empty")
    if exported.left_out:
        remarks.append(f"annotations that could not be used: {name_reasons(exported.left_out)}")
    if missing := exported.missing:
        shown = [f"{image!r} ({why})" for image, why in [*missing.items()][:FAULTS_SHOWN]]
        more = ", …" if len(missing) > FAULTS_SHOWN else ""
        which = (
            "1 image is only in labels.csv, because it"
            if len(missing) == 1
            else f"{len(missing):,} images are only in labels.csv, because they"
        )
        remarks.append(f"{which} cannot be read: {', '.join(shown)}{more}")
    return remarks


if __name__ == "__main__":
    run(main)
