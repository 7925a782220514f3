"""Measure how long it takes to export labels, without reading from Label Studio.

    python -m scripts.research.bench_export

Prints the time that a whole `python -m scripts.export labels` takes, including its start. Also
prints the CPU time that the command used, which hardly depends on how busy the machine is. One in
20 images has two annotations.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from backend.base.command_line import ROOT, CommandParser, run
from backend.images.index import Index
from backend.images.listing import Listed, make_listing
from backend.results.label_files import WRITERS
from backend.store.project_record import POOL_INDEX
from scripts.console.options import at_least
from scripts.research.measurement import announce
from scripts.research.random_project import CLASSES, LABEL_STUDIO_URL, make_annotated_project

SECOND_OPINIONS = 0.05  # as in `make_annotated_project`


def main() -> int:
    """Make a project in a temporary folder, and export its labels in every format."""
    parser = CommandParser(description=__doc__)
    parser.add_argument(
        "--labels", type=at_least(20), default=50_000, help="number of labeled images"
    )
    n_labels = parser.parse_args().labels
    with TemporaryDirectory(prefix="tightloop-bench-") as folder:
        announce(f"making a project with {n_labels:,} labels")
        _make_project(Path(folder), n_labels)
        for suffix in WRITERS:
            began, cpu_before = perf_counter(), _cpu_seconds()
            printed = _export(Path(folder), f"labels{suffix}")
            took, cpu = perf_counter() - began, _cpu_seconds() - cpu_before
            print(f"{suffix:8}  {took:5.1f} s, CPU {cpu:5.1f} s  {printed.strip()}")
    return 0


def _make_project(folder: Path, n_labels: int) -> None:
    n_annotations = round(n_labels * (1 + SECOND_OPINIONS))
    loop, _ = make_annotated_project(folder, n_annotations, n_images=n_annotations + 1, n_open=1)
    images = [Listed(image_id, f"train/{image_id}.jpg") for image_id in loop.pool.image_ids]
    listing = make_listing(images, {}, CLASSES)
    Index.empty(loop.pool.name).merge(listing).index.write(loop.root / POOL_INDEX)


def _export(folder: Path, name: str) -> str:
    """Run the command, and return what it prints."""
    environment = {
        "MODEL_DIR": str(folder),
        "DATA_DIR": str(folder),
        "LABEL_STUDIO_URL": LABEL_STUDIO_URL,
        "LABEL_STUDIO_API_KEY": "none",
    }
    command = (sys.executable, "-m", "scripts.export", "labels", str(folder / name))
    return subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True, text=True
    ).stdout


def _cpu_seconds() -> float:
    """Return the CPU time of all processes that this process has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    run(main)
