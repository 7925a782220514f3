"""Measure how well labels from annotators estimate a model's accuracy, and what they cost.

    python -m scripts.research.bench_validation --annotators annotators.csv.xz

The pool's labels are hidden from everyone but the annotators, who label the validation sample.

  sample  how far estimates are from the accuracy on all other images, without wrong labels
  people  the same, with real annotations
  cost    the accuracy with VALIDATION=people and VALIDATION=known, for the same number of labels

Rerun to resume.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from threadpoolctl import threadpool_limits

from backend.base.command_line import CommandParser, run
from backend.base.errors import SettingsError
from backend.base.settings import load_settings
from scripts.console.options import at_least
from scripts.research.hidden_pool import hide_labels, open_run
from scripts.research.learning_curves import read_rows, write_rows
from scripts.research.simulation import Run, claim
from scripts.research.trials import run_resumable, run_trials
from scripts.research.validation_cost import BUDGETS, compare, simulate_both
from scripts.research.validation_trial import Estimate, run_trial, summarize

BATCH = 100


def main() -> int:
    """Run the missing trials and simulations, and print the requested tables."""
    arguments = _parser().parse_args()
    if "people" in arguments.tables and not arguments.annotators:
        raise SettingsError("the table `people` requires --annotators with a CSV file")
    return run_resumable(partial(_measure, arguments))


def _measure(arguments: argparse.Namespace) -> None:
    base = open_run(load_settings(), arguments.out, arguments.jobs, max(BUDGETS) // BATCH, BATCH)
    claim(arguments.out, base.plan)
    print(f"pool {base.plan.pool}, weights {base.plan.weights}")
    for table in arguments.tables:
        print(f"\n{table}\n\n{TABLES[table](arguments, base)}", flush=True)


def trial_table(arguments: argparse.Namespace, base: Run, *, is_real: bool) -> str:
    """Run the missing trials, with true labels or real annotations, and summarize all trials."""
    path = arguments.out / ("people.csv" if is_real else "sample.csv")
    found = read_rows(path, Estimate) if path.exists() else []
    missing = sorted(set(range(arguments.trials)) - {estimate.seed for estimate in found})
    if missing:
        annotators = arguments.annotators if is_real else ""
        hide_labels(base, annotators)  # embeds the pool once, for all processes
        trial = partial(_run_trial, base, annotators)
        for estimates in run_trials(trial, missing, arguments.jobs):
            found += estimates
            write_rows(path, found)
    return summarize([estimate for estimate in found if estimate.seed < arguments.trials])


def cost_table(arguments: argparse.Namespace, base: Run) -> str:
    """Run the missing simulations, and compare their accuracies."""
    hide_labels(base, "")  # embeds the pool once, for all simulations
    return compare(*simulate_both(base, arguments.repeats, arguments.jobs))


TABLES: dict[str, Callable[[argparse.Namespace, Run], str]] = {
    "sample": partial(trial_table, is_real=False),
    "people": partial(trial_table, is_real=True),
    "cost": cost_table,
}


def _run_trial(base: Run, annotators: str, seed: int) -> list[Estimate]:
    with threadpool_limits(base.threads):
        return run_trial(hide_labels(base, annotators), seed)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(description=__doc__)
    add = parser.add_argument
    add("--tables", choices=TABLES, nargs="+", default=list(TABLES))
    add("--trials", type=at_least(2), default=100, help="for `sample` and `people`")
    add("--repeats", type=at_least(2), default=5, help="number of seeds for `cost`")
    add("--annotators", help="a CSV of real annotations: image, annotator_1, annotator_2, …")
    add("--out", type=Path, default="var/validation", help="the results' folder; rerun to resume")
    jobs = os.cpu_count() or 1
    add("--jobs", type=at_least(1), default=jobs, help="number of processes")
    return parser


if __name__ == "__main__":
    run(main)
