"""Measure how many images a model may label, and how often the promise about its errors is broken.

    python -m scripts.research.bench_finish --annotators annotators.csv.xz

The pool's labels are hidden. In each run, a simulated loop labels images, and then has the model
label the rest, with several promises and under several conditions (see finish_trial.py). The model
is a head on the pre-trained body or, with --train full, the whole network. Rerun to resume.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from backend.base.command_line import CommandParser, run
from backend.base.settings import load_settings
from scripts.console.options import at_least
from scripts.research.experiment import open_experiment
from scripts.research.finish_models import (
    TrainedModel,
    fine_tune,
    load_model,
    save_model,
    train_heads,
)
from scripts.research.finish_trial import Outcome, run_conditions, summarize
from scripts.research.hidden_pool import HiddenPool, hide_labels, open_run
from scripts.research.learning_curves import read_rows, write_rows
from scripts.research.simulation import Run, claim
from scripts.research.trials import run_resumable, run_trials

LABELS = (500, 1000, 2000)


def main() -> int:
    """Run the missing trials, and print a table of all trials."""
    return run_resumable(partial(_measure, _parser().parse_args()))


def _measure(arguments: argparse.Namespace) -> None:
    base = open_run(load_settings(), arguments.out, arguments.jobs, rounds=0, batch=0)
    claim(arguments.out, base.plan)
    print(f"pool {base.plan.pool}, weights {base.plan.weights}\n")
    print(summarize(read_or_run(arguments, base)))


def read_or_run(arguments: argparse.Namespace, base: Run) -> list[Outcome]:
    """Run the missing trials; return the outcomes of all trials."""
    path = arguments.out / f"{arguments.train}.csv"
    found = read_rows(path, Outcome) if path.exists() else []
    missing = sorted(set(range(arguments.models)) - {outcome.model for outcome in found})
    if missing:
        hide_labels(base, arguments.annotators)  # embeds the pool once, for all processes
        trial = partial(run_trial, base, arguments)
        for outcomes in run_trials(trial, missing, arguments.jobs):
            found += outcomes
            write_rows(path, found)
    return [outcome for outcome in found if outcome.model < arguments.models]


def run_trial(base: Run, arguments: argparse.Namespace, seed: int) -> list[Outcome]:
    """Train the models of one seed, and have each model label the rest, with several samples."""
    torch.set_num_threads(base.threads)
    with threadpool_limits(base.threads):
        pool = hide_labels(base, arguments.annotators)
        models = train_models(base, pool, arguments.train, seed)
        return [
            outcome
            for model in models
            for draw in range(arguments.draws)
            for outcome in run_conditions(model, pool, seed, draw)
        ]


def train_models(base: Run, pool: HiddenPool, train: str, seed: int) -> list[TrainedModel]:
    """Return one model for each of LABELS that the pool is large enough for.

    Models are kept in files, because training takes a long time.
    """
    folder = base.folder.parent / "models"
    folder.mkdir(exist_ok=True)
    paths = {n_labels: folder / f"{train}-{seed}-{n_labels}.npz" for n_labels in LABELS}
    if all(path.exists() for path in paths.values()):
        return [load_model(path) for path in paths.values()]
    models = [head for head in train_heads(pool, seed) if len(head.asked) in paths]
    if train == "full":
        experiment = open_experiment(load_settings(), seed=0)
        models = [fine_tune(experiment, pool, head, seed) for head in models]
    for model in models:
        save_model(paths[len(model.asked)], model)
    return models


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(description=__doc__)
    add = parser.add_argument
    add("--train", choices=("head", "full"), default="head")
    add("--models", type=at_least(1), default=100, help="number of models for each label count")
    add("--draws", type=at_least(1), default=1, help="number of runs with each model")
    add("--annotators", default="", help="a CSV of real annotations: image, annotator_1, …")
    add("--out", type=Path, default="var/finish", help="the results' folder; rerun to resume")
    jobs = os.cpu_count() or 1
    add("--jobs", type=at_least(1), default=jobs, help="number of processes")
    return parser


if __name__ == "__main__":
    run(main)
