"""Measure how fast labeling reacts while the trainer adapts the body to the pool.

    python -m scripts.research.bench_while_adapting

Starts a whole stack in var/bench-adapting, waits until the body is adapted, and measures webhooks,
the orders of heads, and how long a requested training run waits. Webhooks are also measured while
the process that adapts is frozen. Leave the machine alone meanwhile. POOL, WEIGHTS and IMAGE_SIZE
come from the settings.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
import psutil

from backend.base.command_line import CommandParser, run
from backend.base.errors import BackendError
from backend.labelstudio.project import LabelStudioProject
from backend.queue.training_queue import TrainingQueue
from scripts.research.bench_backend import PER_S, SENDERS, Webhooks, send_webhooks
from scripts.research.bench_circle import HEADS, LAST_LABELS, annotate_tasks, measure_orders
from scripts.research.bench_refit import OPEN
from scripts.research.measurement import Figure, announce, print_table
from scripts.research.random_project import FIRST
from scripts.research.temporary_stack import Backend, TemporaryStack, temporary_stack

RUNS = 5
SECONDS = 10.0  # of webhooks in each run
REQUESTS = 3  # to train; each is followed by a training run
NEVER = "100000"  # new annotations, or seconds: no training run becomes due by itself
PATIENCE_S = 1800.0
POLL_S = 0.1


def main() -> int:
    """Measure everything, and print the table."""
    CommandParser(description=__doc__).parse_args()
    settings = {
        "BATCH_SIZE": str((OPEN + LAST_LABELS) // 2),
        "RETRAIN_AFTER": NEVER,
        "RETRAIN_WAIT": NEVER,
        "LOG_FORMAT": "text",
        "ADAPT": "240",
    }
    with temporary_stack("bench-adapting", **settings) as stack:
        _wait_for("the first version", lambda: _project(stack).model_version() == FIRST)
        _wait_for("the adaptation", lambda: _runs(stack, "adapt"))
        figures = [*_webhook_figures(stack), _order_figure(stack), _yield_figure(stack)]
    print(f"\n{os.cpu_count()} cores")
    print_table(figures)
    return 0


def _webhook_figures(stack: TemporaryStack) -> list[Figure]:
    announce("measuring webhooks")
    info = stack.info
    backend = Backend(
        port=int(stack.environment["BACKEND_PORT"]),
        password=info["webhook_secret"],
        pid=info["pids"]["backend"],
        queue=_queue(stack),
        log=Path(info["logs"]["backend"]),
    )
    beside: list[Webhooks] = []
    alone: list[Webhooks] = []
    for _ in range(RUNS):
        beside.append(send_webhooks(backend, SECONDS, keep_connections=True))
        with _frozen_job(info["pids"]["trainer"]):
            alone.append(send_webhooks(backend, SECONDS, keep_connections=True))
    name = f"webhooks, {PER_S}/s on {SENDERS} connections, median of {RUNS} runs"
    return [
        Figure(name, _median_latency(beside), "p99 <= 20 ms"),
        Figure("  the same while adapting is frozen", _median_latency(alone)),
        Figure("  lost", str(sum(run.lost for run in [*beside, *alone])), "0"),
    ]


def _median_latency(runs: Sequence[Webhooks]) -> str:
    of_runs = [np.percentile(run.seconds, [50, 99]) * 1000 for run in runs]
    p50_ms, p99_ms = np.median(of_runs, axis=0)
    return f"p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms"


@contextmanager
def _frozen_job(trainer: int) -> Iterator[None]:
    """Freeze the process of the trainer's job, but not the worker that watches it."""
    processes = psutil.Process(trainer).children(recursive=True)
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


def _order_figure(stack: TemporaryStack) -> Figure:
    announce("measuring heads' orders")
    annotate = annotate_tasks(stack.info, _project(stack))
    orders = [order.total_s for order in measure_orders(annotate, stack.var / "log/ranker.log")]
    value = f"{median(orders):.1f} s ({min(orders):.1f} to {max(orders):.1f} s)"
    return Figure(f"an annotation -> a head's order, median of {HEADS}", value, "<= 3 s")


def _yield_figure(stack: TemporaryStack) -> Figure:
    yielded_s = [_time_yield(stack) for _ in range(REQUESTS)]
    value = f"{median(yielded_s):.1f} s, {max(yielded_s):.1f} s"
    name = f"a request to train -> the training run begins, median and longest of {REQUESTS}"
    return Figure(name, value, "<= 10 s")


def _time_yield(stack: TemporaryStack) -> float:
    """Request a training run while the body is adapted, and return the seconds until it begins."""
    _wait_for("the adaptation", lambda: _runs(stack, "adapt"))
    time.sleep(np.random.default_rng().uniform(0, 10))  # the trainer looks every few seconds
    asked_at = time.monotonic()
    _queue(stack).ask_for_training(stack.info["project_id"], time.time())
    _wait_for("the training run", lambda: _runs(stack, "retrain"))
    return time.monotonic() - asked_at


def _runs(stack: TemporaryStack, name: str) -> bool:
    jobs = _queue(stack).jobs(stack.info["project_id"])
    return any(job["job"] == name and job["status"] == "started" for job in jobs)


def _wait_for(what: str, is_there: Callable[[], bool]) -> None:
    """Wait until something is there. Raises BackendError if that takes too long."""
    announce(f"waiting for {what}")
    give_up = time.monotonic() + PATIENCE_S
    while not is_there():
        if time.monotonic() > give_up:
            raise BackendError(f"no sign of {what} after {PATIENCE_S / 60:.0f} minutes")
        time.sleep(POLL_S)


def _project(stack: TemporaryStack) -> LabelStudioProject:
    info = stack.info
    return LabelStudioProject(info["label_studio_url"], info["api_key"], info["project_id"])


def _queue(stack: TemporaryStack) -> TrainingQueue:
    return TrainingQueue(stack.info["redis_url"])


if __name__ == "__main__":
    run(main)
