"""Measure how fast labeling reacts while the trainer adapts the body to the pool.

    python -m scripts.research.bench_while_adapting

Starts a whole stack in var/bench-adapting without adapting, and measures webhooks and the orders of
heads. Then restarts the stack with adapting, and measures the same again, and how long a requested
training run waits. Leave the machine alone meanwhile. POOL, WEIGHTS and IMAGE_SIZE come from the
settings.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from backend.base.command_line import CommandParser, run
from backend.base.errors import BackendError
from backend.labelstudio.project import LabelStudioProject
from backend.queue.training_queue import TrainingQueue
from scripts.research.bench_backend import PER_S, SENDERS, send_webhooks
from scripts.research.bench_circle import HEADS, annotate_tasks, measure_orders
from scripts.research.measurement import Figure, announce, print_table
from scripts.research.random_project import FIRST
from scripts.research.temporary_stack import Backend, TemporaryStack, temporary_stack

RUNS = 5
SECONDS = 10.0  # of webhooks in each run
REQUESTS = 3  # to train; each is followed by a training run
NEVER = "100000"  # new annotations, or seconds: no training run becomes due by itself
PATIENCE_S = 1800.0
POLL_S = 0.1


@dataclass(frozen=True)
class Reaction:
    """How fast a stack reacts, as medians of several runs."""

    webhook_p50_ms: float
    webhook_p99_ms: float
    n_lost: int
    order_s: float  # from an annotation until a head that learned from it has reordered the tasks


def main() -> int:
    """Measure everything, and print the table."""
    CommandParser(description=__doc__).parse_args()
    settings = {
        "RETRAIN_AFTER": NEVER,
        "RETRAIN_WAIT": NEVER,
        "LOG_FORMAT": "text",
    }
    with temporary_stack("bench-adapting", **settings) as stack:
        _wait_for("the first version", lambda: _project(stack).model_version() == FIRST)
        alone = _measure(stack)
        announce("restarting the stack with ADAPT")
        stack.down()
        adapting = replace(stack, environment={**stack.environment, "ADAPT": "240"})
        adapting.up()
        _wait_for("the adaptation", lambda: _runs(adapting, "adapt"))
        beside = _measure(adapting)
        yielded_s = [_time_yield(adapting) for _ in range(REQUESTS)]
    print(f"\n{os.cpu_count()} cores")
    print_table(_figures(alone, beside, yielded_s))
    return 0


def _figures(alone: Reaction, beside: Reaction, yielded_s: list[float]) -> list[Figure]:
    def both(form: str, name: str) -> str:
        return f"{form.format(getattr(beside, name))}; without {form.format(getattr(alone, name))}"

    webhooks = f"webhooks, {PER_S}/s on {SENDERS} connections, median of {RUNS} runs"
    return [
        Figure(f"{webhooks}: p50", both("{:.1f} ms", "webhook_p50_ms")),
        Figure(f"{webhooks}: p99", both("{:.1f} ms", "webhook_p99_ms"), "<= 20 ms"),
        Figure("webhooks that were lost", both("{}", "n_lost"), "0"),
        Figure(
            f"an annotation -> a head's order, median of {HEADS}",
            both("{:.1f} s", "order_s"),
            "<= 3 s",
        ),
        Figure(
            f"a request to train -> the training run begins, median and longest of {REQUESTS}",
            f"{median(yielded_s):.1f} s, {max(yielded_s):.1f} s",
            "<= 10 s",
        ),
    ]


def _measure(stack: TemporaryStack) -> Reaction:
    announce("measuring webhooks")
    info = stack.info
    backend = Backend(
        port=int(stack.environment["BACKEND_PORT"]),
        password=info["webhook_secret"],
        pid=info["pids"]["backend"],
        queue=_queue(stack),
        log=Path(info["logs"]["backend"]),
    )
    found = [send_webhooks(backend, SECONDS, keep_connections=True) for _ in range(RUNS)]
    p50_ms, p99_ms = np.median(
        [np.percentile(run.seconds, [50, 99]) * 1000 for run in found], axis=0
    )
    announce("measuring heads' orders")
    annotate = annotate_tasks(info, _project(stack))
    orders = measure_orders(annotate, stack.var / "log/ranker.log")
    return Reaction(
        webhook_p50_ms=p50_ms,
        webhook_p99_ms=p99_ms,
        n_lost=sum(run.lost for run in found),
        order_s=median(order.total_s for order in orders),
    )


def _time_yield(stack: TemporaryStack) -> float:
    """Request a training run while the body is adapted, and return the seconds until it begins."""
    _wait_for("the adaptation", lambda: _runs(stack, "adapt"))
    time.sleep(np.random.default_rng().uniform(0, 10))  # the trainer looks every few seconds
    asked_at = time.monotonic()
    _queue(stack).ask_for_training(stack.info["project_id"], time.time())
    _wait_for("the training run", lambda: _runs(stack, "train"))
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
