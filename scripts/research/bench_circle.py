"""Measure a whole stack: the time from an annotation to the new order and to the next round."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from backend.base.errors import LabelStudioError
from backend.labelstudio.project import LabelStudioProject
from backend.labelstudio.rows import prediction_result
from backend.store import model_outputs
from backend.store.project_record import project_root
from backend.store.registry import Registry
from scripts.research.bench_photo_tasks import photo_tasks_figures
from scripts.research.bench_refit import OPEN
from scripts.research.measurement import Figure, announce, memory_mb
from scripts.research.random_project import FIRST
from scripts.research.temporary_stack import temporary_stack

SEEDS = 1980
LAST_LABELS = 20
HEADS = 5  # the number of these labels for which the reordering by a head is timed
SECOND = "r0002"
# The ranker fits a head at most once every five seconds. Before each measurement, the ranker must
# also have finished its other work.
QUIET_S = 6.0
PATIENCE_S = 120.0
TRAINING_PATIENCE_S = 3600.0


def circle_figures() -> list[Figure]:
    """Start a whole stack; measure reordering by heads, training, and tasks with photographs."""
    settings = {
        "SEED_LABELS": str(SEEDS),
        # Two batches are open when the first version is ready; OPEN of these tasks stay open.
        "BATCH_SIZE": str((OPEN + LAST_LABELS) // 2),
        "RETRAIN_AFTER": str(LAST_LABELS),
        "RETRAIN_WAIT": "3600",
        "LOG_FORMAT": "text",
    }
    with temporary_stack("bench", **settings) as stack:
        circle = _measure_circle(stack.info, stack.var / "log/ranker.log")
        return [*circle, *photo_tasks_figures(stack.info)]


def _measure_circle(stack: Mapping[str, Any], ranker_log: Path) -> list[Figure]:
    project = LabelStudioProject(stack["label_studio_url"], stack["api_key"], stack["project_id"])
    root = project_root(Path(stack["model_dir"]), stack["project_id"])
    announce("waiting for the first version")
    while project.model_version() != FIRST:
        time.sleep(1)
    _wait_until_quiet(ranker_log)
    annotate = annotate_tasks(stack, project)
    announce("measuring heads' orders")
    orders = measure_orders(annotate, ranker_log)
    figures = _head_figures(orders, root)
    for _ in annotate:  # annotate the rest, after which training is due
        pass
    announce("waiting for the second version")
    return figures + _training_figures(project, root, stack["pids"]["trainer"])


def annotate_tasks(stack: Mapping[str, Any], project: LabelStudioProject) -> Iterator[None]:
    """Annotate LAST_LABELS open tasks, one per step."""
    config = project.label_config()
    tasks = project.open_tasks()[:LAST_LABELS]
    login = {"Authorization": f"Token {stack['api_key']}"}
    with httpx.Client(base_url=stack["label_studio_url"], headers=login, timeout=60) as client:
        for task, label in zip(tasks, cycle(config.choices), strict=False):
            url, result = (
                f"/api/tasks/{task.task_id}/annotations/",
                prediction_result(config, label),
            )
            client.post(url, json={"result": result}).raise_for_status()
            yield


def measure_orders(annotate: Iterator[None], ranker_log: Path) -> list[HeadOrder]:
    """Annotate HEADS tasks, and wait after each until a head has reordered the open tasks."""
    orders = []
    for _ in range(HEADS):
        _wait_until_quiet(ranker_log)
        n_before, annotated_at = ranker_log.stat().st_size, time.time()
        next(annotate)
        orders.append(_wait_for_order(ranker_log, n_before, annotated_at))
    return orders


def _head_figures(orders: Sequence[HeadOrder], root: Path) -> list[Figure]:
    heads = [Registry(root).read_meta(order.version) for order in orders]
    scored = model_outputs.load_pool_probs(root, heads[-1].version)
    n_scored = len(scored) if scored else 0
    begin_s, head_s, order_s, total_s = (
        median(getattr(order, part) for order in orders)
        for part in ("begin_s", "head_s", "order_s", "total_s")
    )
    n_open = min(order.n_open for order in orders)
    return [
        Figure(
            f"an annotation -> a head's order of {n_open} open tasks, {heads[-1].labels:,} labels",
            f"{total_s:.1f} s, median of {HEADS}",
            "<= 1.5 s",
        ),
        Figure("  of which", f"job begins {begin_s:.1f}, head {head_s:.1f}, order {order_s:.1f} s"),
        Figure(
            f"  of which refit and re-ranking of {n_scored:,} images",
            f"{median(sum(head.seconds.values()) for head in heads):.2f} s",
            "<= 1 s",
        ),
    ]


def _training_figures(project: LabelStudioProject, root: Path, trainer: int) -> list[Figure]:
    began = time.perf_counter()
    peak_mb, served_s = 0.0, None
    while project.model_version() != SECOND:
        if time.perf_counter() - began > TRAINING_PATIENCE_S:
            raise LabelStudioError("no second version after an hour: see var/bench/log/trainer.log")
        current = Registry(root).current()
        if served_s is None and current is not None and current.version == SECOND:
            served_s = time.perf_counter() - began
        peak_mb = max(peak_mb, memory_mb(trainer))
        time.sleep(0.2)
    total_s = time.perf_counter() - began
    meta = Registry(root).read_meta(SECOND)
    parts = ", ".join(f"{phase} {s:.1f}" for phase, s in meta.seconds.items())
    start = f"{Path(meta.pool).name}, {Path(meta.weights).name}, {meta.image_size} px"
    return [
        Figure(
            f"last annotation -> new order, {meta.labels} labels",
            f"{total_s:.1f} s (served after {served_s or total_s:.1f} s)",
        ),
        Figure("  of which, in seconds", parts),
        Figure("  pool, start", start),
        Figure("trainer and its job, peak memory", f"{peak_mb:.0f} MB", "<= 3,000 MB"),
    ]


@dataclass(frozen=True)
class HeadOrder:
    """The time from an annotation until a head that learned from it has reordered the tasks."""

    version: str
    n_open: int
    begin_s: float  # until the ranker's job begins
    head_s: float  # until the head is saved
    order_s: float  # until Label Studio orders its tasks by the head

    @property
    def total_s(self) -> float:
        """The total time."""
        return self.begin_s + self.head_s + self.order_s


def _wait_for_order(log: Path, n_before: int, annotated_at: float) -> HeadOrder:
    """Wait until the ranker's log, after its first `n_before` bytes, reports that a head reordered
    tasks.

    Raises LabelStudioError if this takes too long.
    """
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        found = find_order(log.read_bytes()[n_before:].decode(errors="replace"), annotated_at)
        if found is not None:
            return found
        time.sleep(0.05)
    raise LabelStudioError(
        f"no head reordered the tasks in {PATIENCE_S:.0f} s; the ranker's log says:\n"
        + log.read_bytes()[n_before:].decode(errors="replace")
    )


def find_order(lines: str, annotated_at: float) -> HeadOrder | None:
    """Return how long a head took to reorder the tasks, or None if no head has done so yet.

    `lines` is the ranker's log since the annotation at `annotated_at`.
    """
    pattern = _line(r"(\d+) open tasks have predictions of (r\d+h\d+)")
    for order in re.finditer(pattern, lines, re.MULTILINE):
        before = lines[: order.start()]
        head = re.search(_line(rf"{order[3]}: [\d,]+ labels"), before, re.MULTILINE)
        if head is not None:  # otherwise, an earlier head has ordered new tasks
            break
    else:
        return None
    jobs = re.findall(
        _line(r".*backend\.workers\.jobs\.rank\("), before[: head.start()], re.MULTILINE
    )
    begun_at = _moment(jobs[-1]) if jobs else annotated_at  # the job was already running
    saved_at = _moment(head[1])
    return HeadOrder(
        version=order[3],
        n_open=int(order[2]),
        begin_s=begun_at - annotated_at,
        head_s=saved_at - begun_at,
        order_s=_moment(order[1]) - saved_at,
    )


def _line(message: str) -> str:
    """Return a pattern for our log lines, whose first group is the time."""
    return rf"^(\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d,\d{{3}}) INFO {message}"


def _moment(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S,%f").timestamp()


def _wait_until_quiet(log: Path) -> None:
    """Wait until nothing has been logged for QUIET_S seconds."""
    while (quiet_s := time.time() - log.stat().st_mtime) < QUIET_S:
        time.sleep(QUIET_S - quiet_s)
