"""Measure attaching to an existing Label Studio project, in a separate stack.

    python -m scripts.research.bench_attach
    python -m scripts.research.bench_attach --tasks 2000 --labels 200

The project's images are uploads of 64 px. Prints a table, and writes var/bench_attach.json.
"""

from __future__ import annotations

import io
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from backend.base.command_line import ROOT, CommandParser, run
from backend.base.errors import LabelStudioError
from backend.base.labeling import NewTask, TaskImage
from backend.base.settings import Settings
from backend.labelstudio.attached_project import AttachedProject
from backend.labelstudio.client import create_project
from backend.labelstudio.label_config import label_config_xml
from backend.labelstudio.project import LabelStudioProject
from backend.labelstudio.rows import prediction_result
from backend.store import project_db
from backend.store.project_record import project_root
from backend.store.project_store import ProjectStore
from backend.store.registry import Registry
from scripts.console.options import at_least
from scripts.research.bench_circle import find_order
from scripts.research.measurement import Figure, announce, print_table
from scripts.research.temporary_stack import temporary_stack
from scripts.setup.attach import attach

CLASSES = ("red", "green", "blue", "gray")
IMAGE_PX = 64
UPLOADED_AT_ONCE = 100  # Label Studio's maximum
PATIENCE_S = 3600.0
POLL_S = 0.2


def main() -> int:
    """Measure everything, and print the table."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--tasks", type=at_least(100), default=20_000, help="default: 20000")
    parser.add_argument("--labels", type=at_least(8), default=2_000, help="default: 2000")
    arguments = parser.parse_args()
    # The stack's first project stays idle: nothing in it is labeled.
    settings = {"POOL": "digits", "SEED_LABELS": "0", "WEIGHTS": "none", "LOG_FORMAT": "text"}
    with temporary_stack("bench-attach", **settings) as stack:
        project_id = _make_project(stack.info, arguments.tasks, arguments.labels)
        figures = _measure(stack.info, stack.var, project_id)
    report = {**vars(arguments), "figures": [vars(figure) for figure in figures]}
    print(f"\n{os.cpu_count()} cores, {arguments.tasks:,} tasks, {arguments.labels:,} annotations")
    print_table(figures)
    (ROOT / "var/bench_attach.json").write_text(json.dumps(report, indent=2))
    return 0


def _make_project(stack: Mapping[str, Any], n_tasks: int, n_labels: int) -> int:
    """Create a project with uploaded images, of which the first are annotated; return its id."""
    server = stack["label_studio_url"], stack["api_key"]
    project_id = create_project(*server, title="Existing", label_config=label_config_xml(CLASSES))
    project = LabelStudioProject(*server, project_id)
    rng = np.random.default_rng(0)
    for start in range(0, n_tasks, UPLOADED_AT_ONCE):
        announce(f"uploading images: {start:,} of {n_tasks:,}")
        numbers = range(start, min(start + UPLOADED_AT_ONCE, n_tasks))
        shown = project.upload({f"{number:06}": _image(number, rng) for number in numbers})
        project.import_tasks(
            [
                NewTask(
                    name,
                    {"image": address},
                    label=CLASSES[int(name) % len(CLASSES)] if int(name) < n_labels else None,
                )
                for name, address in shown.items()
            ]
        )
    return project_id


def _image(number: int, rng: np.random.Generator) -> TaskImage:
    """Return an image of noise in the color of its class."""
    color = np.array([[220, 80, 80], [80, 220, 80], [80, 80, 220], [130, 130, 130]])
    noise = rng.integers(-60, 61, (IMAGE_PX, IMAGE_PX, 3))
    pixels = np.clip(color[number % len(CLASSES)] + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return TaskImage(file.getvalue(), "image/jpeg")


def _measure(stack: Mapping[str, Any], var: Path, project_id: int) -> list[Figure]:
    root = project_root(Path(stack["model_dir"]), project_id)
    store = ProjectStore(root)
    announce("attaching")
    began = time.time()
    settings = Settings.load(_env_file=var / "stack.env", weights="none")
    attach(settings, str(project_id), "given")
    attached_s = time.time() - began
    announce("waiting for the images and the first version")
    fetched_s = trained_at = asked_at = None
    while fetched_s is None or asked_at is None:
        now, facts = time.time(), store.facts()
        if now - began > PATIENCE_S:
            raise LabelStudioError(f"not finished after an hour: see {var}/log")
        if fetched_s is None and facts.decoded_at and not facts.undecoded_images:
            fetched_s = now - began
        if trained_at is None and Registry(root).current() is not None:
            trained_at = now
        if asked_at is None and _n_asked_by(root, "r0001"):
            asked_at = now
        time.sleep(POLL_S)
    assert trained_at is not None, "a version asked"
    order_s, n_writes = _label_to_order(stack, var, project_id)
    return [
        Figure("--attach until it returns", f"{attached_s:.0f} s"),
        Figure("--attach until all images are fetched", f"{fetched_s:.0f} s"),
        Figure(
            "end of the first training -> first task chosen by a model",
            f"{max(asked_at - trained_at, 0):.1f} s",
            "<= 120 s",
        ),
        Figure("an annotation -> a head's order", f"{order_s:.1f} s", "<= 1.5 s"),
        Figure("requests that write predictions for this head", str(n_writes), "<= 3"),
    ]


def _n_asked_by(root: Path, version: str) -> int:
    query = "SELECT count(*) FROM own_asked WHERE version = ?"
    return int(project_db.select(root, query, version)[0][0])


def _count_writes(var: Path, project_id: int) -> int:
    """Count the requests in Label Studio's log that imported or deleted predictions."""
    log = (var / "log/label-studio.log").read_text(errors="replace")
    path = f"/api/projects/{project_id}"
    return len(re.findall(rf"POST {path}/import/predictions|DELETE {path}/model-versions", log))


def _label_to_order(stack: Mapping[str, Any], var: Path, project_id: int) -> tuple[float, int]:
    """Annotate a task, and wait until a head has reordered the tasks.

    Returns the seconds that this takes, and how many requests write predictions meanwhile.
    """
    announce("measuring a head's order")
    ranker_log = var / "log/ranker.log"
    _wait(lambda: time.time() - ranker_log.stat().st_mtime > 10)
    project = AttachedProject(stack["label_studio_url"], stack["api_key"], project_id)
    root = project_root(Path(stack["model_dir"]), project_id)
    store = ProjectStore(root)
    of_sample = {task.task_id for task in store.validation_tasks()}  # no head learns from these
    is_due = (t.task_id for t in store.tasks() if t.is_open and t.task_id not in of_sample)
    task_id = next(is_due)
    n_writes = _count_writes(var, project_id)
    n_before, annotated_at = ranker_log.stat().st_size, time.time()
    httpx.post(
        f"{stack['label_studio_url']}/api/tasks/{task_id}/annotations/",
        json={"result": prediction_result(project.label_config(), CLASSES[0])},
        headers={"Authorization": f"Token {stack['api_key']}"},
        timeout=60,
    ).raise_for_status()

    def has_order() -> bool:
        lines = ranker_log.read_bytes()[n_before:].decode(errors="replace")
        return find_order(lines, annotated_at) is not None

    _wait(has_order)
    order_s = time.time() - annotated_at
    _wait(lambda: time.time() - ranker_log.stat().st_mtime > 5)  # old predictions are deleted last
    return order_s, _count_writes(var, project_id) - n_writes


def _wait(is_done: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not is_done():
        if time.monotonic() > give_up:
            raise LabelStudioError("not finished after an hour: see var/bench-attach/log")
        time.sleep(POLL_S)


if __name__ == "__main__":
    run(main)
