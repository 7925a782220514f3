"""Measure the circle on a whole stack: from an annotation to a head's order and the next round."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from backend.base.errors import LabelStudioError
from backend.labelstudio.project import LabelStudioProject
from backend.labelstudio.rows import prediction_result
from backend.store import version_probs
from backend.store.project_record import project_root
from backend.store.registry import Registry
from scripts.research.bench_refit import OPEN
from scripts.research.figure import Figure, say
from scripts.research.temporary_backend import tree_mb
from scripts.research.temporary_stack import temporary_stack

SEEDS = 1980
LAST_LABELS = 20
HEADS = 5  # whose orders are measured, of those labels
# A head comes every five seconds at most, and the ranker's other work must be over.
QUIET_S = 6.0
PATIENCE_S = 120.0
TRAINING_PATIENCE_S = 3600.0


def circle_figures() -> list[Figure]:
    """On a whole stack: from the last annotation to the next batch, and what a training takes."""
    settings = {
        "SEED_LABELS": str(SEEDS),
        # Two batches are open by the first version: OPEN are left when all have answered.
        "BATCH_SIZE": str((OPEN + LAST_LABELS) // 2),
        "RETRAIN_AFTER": str(LAST_LABELS),
        "RETRAIN_WAIT": "3600",
        "LOG_FORMAT": "text",
    }
    with temporary_stack("bench", **settings) as (var, stack):
        return _measure_circle(stack, var / "log/ranker.log")


def _measure_circle(stack: Mapping[str, Any], ranker_log: Path) -> list[Figure]:
    project_id = stack["project_id"]
    project = LabelStudioProject(stack["label_studio_url"], stack["api_key"], project_id)
    config = project.label_config()
    root = project_root(Path(stack["model_dir"]), project_id)
    say("waiting for the first version")
    while project.model_version() != "r0001":
        time.sleep(1)
    _wait_until_quiet(ranker_log)
    open_tasks = project.open_tasks()[:LAST_LABELS]
    http = httpx.Client(
        base_url=stack["label_studio_url"], headers={"Authorization": f"Token {stack['api_key']}"}
    )

    def answer(number: int) -> None:
        label = config.choices[number % len(config.choices)]
        http.post(
            f"/api/tasks/{open_tasks[number].task_id}/annotations/",
            json={"result": prediction_result(config, label)},
            timeout=60,
        ).raise_for_status()

    say("measuring heads' orders")
    orders = []
    for number in range(HEADS):
        _wait_until_quiet(ranker_log)
        n_before = ranker_log.stat().st_size
        answered_at = time.time()
        answer(number)
        orders.append(_wait_for_order(ranker_log, n_before, answered_at))
    n_open = min(order.n_open for order in orders)
    heads = [Registry(root).read_meta(order.version) for order in orders]
    kept = version_probs.load_pool_probs(root, heads[-1].version)
    for number in range(HEADS, LAST_LABELS):
        answer(number)
    began = time.perf_counter()
    say("waiting for the second")
    peak_mb = 0.0
    served_s = None
    while project.model_version() != "r0002":
        if time.perf_counter() - began > TRAINING_PATIENCE_S:
            raise LabelStudioError("no second version came: see var/bench/log/trainer.log")
        current = Registry(root).current()
        if served_s is None and current is not None and current.version == "r0002":
            served_s = time.perf_counter() - began
        peak_mb = max(peak_mb, tree_mb(stack["pids"]["trainer"]))
        time.sleep(0.2)
    total_s = time.perf_counter() - began
    meta = Registry(root).read_meta("r0002")
    parts = ", ".join(f"{phase} {s:.1f}" for phase, s in meta.seconds.items())
    return [
        Figure(
            f"an annotation -> a head's order of {n_open} open tasks, {heads[-1].labels:,} labels",
            f"{median(order.total_s for order in orders):.1f} s, median of {HEADS}",
            "<= 1.5 s",
        ),
        Figure(
            "  of it",
            f"job begins {median(order.begin_s for order in orders):.1f}, "
            f"head {median(order.head_s for order in orders):.1f}, "
            f"order {median(order.order_s for order in orders):.1f} s",
        ),
        Figure(
            f"  of it refit and re-ranking of {len(kept[0]) if kept else 0:,} images",
            f"{median(sum(head.seconds.values()) for head in heads):.2f} s",
            "<= 1 s",
        ),
        Figure(
            f"last annotation -> new order, {meta.labels} labels",
            f"{total_s:.1f} s (served after {served_s or total_s:.1f} s)",
        ),
        Figure("  of it, seconds", parts),
        Figure(
            "  pool, start",
            f"{Path(meta.pool).name}, {Path(meta.weights).name}, {meta.image_size} px",
        ),
        Figure("trainer and its job, peak memory", f"{peak_mb:.0f} MB", "<= 3,000 MB"),
    ]


@dataclass(frozen=True)
class HeadOrder:
    """How long it took from an answer to the order of the head that knows it, part by part."""

    version: str
    n_open: int
    begin_s: float  # until the ranker's job begins
    head_s: float  # until the head is kept
    order_s: float  # until Label Studio orders its tasks by it

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.begin_s + self.head_s + self.order_s


def _wait_for_order(log: Path, n_before: int, answered_at: float) -> HeadOrder:
    """Wait for a head's order in the ranker's log, of which `n_before` bytes are older than the
    answer; LabelStudioError if none comes.
    """
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        found = find_order(log.read_bytes()[n_before:].decode(errors="replace"), answered_at)
        if found is not None:
            return found
        time.sleep(0.05)
    raise LabelStudioError("no head's order came: see var/bench/log/ranker.log")


def find_order(lines: str, answered_at: float) -> HeadOrder | None:
    """Read from the ranker's log lines since an answer how its head and order came; None if they
    did not yet.
    """
    order = re.search(_line(r"(\d+) open tasks re-ordered by (r\d+h\d+)"), lines, re.MULTILINE)
    if order is None:
        return None
    before = lines[: order.start()]
    head = re.search(_line(rf"{order[3]}: [\d,]+ labels"), before, re.MULTILINE)
    if head is None:
        return None
    jobs = re.findall(_line(r".*backend\.jobs\.rank\("), before[: head.start()], re.MULTILINE)
    begun_at = _moment(jobs[-1]) if jobs else answered_at  # it ran already
    kept_at = _moment(head[1])
    return HeadOrder(
        version=order[3],
        n_open=int(order[2]),
        begin_s=begun_at - answered_at,
        head_s=kept_at - begun_at,
        order_s=_moment(order[1]) - kept_at,
    )


def _line(message: str) -> str:
    """A pattern of our log lines, whose first group is the moment."""
    return rf"^(\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d,\d{{3}}) INFO {message}"


def _moment(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S,%f").timestamp()


def _wait_until_quiet(log: Path) -> None:
    """Wait until nothing was logged for QUIET_S."""
    while (quiet_s := time.time() - log.stat().st_mtime) < QUIET_S:
        time.sleep(QUIET_S - quiet_s)
