"""Simulate labeling with an oracle to find how many labels each query strategy needs.

    python -m scripts.research.simulate --strategies auto,random --rounds 20 --batch 100
    python -m scripts.research.simulate --strategies auto,random --budgets 10,100,1000 --adapt 30

Runs the same rounds as with human annotators, once per strategy and seed, in parallel. Writes
curves.csv, summary.md, curves.png and curves.svg into the folder given by --out. Rerun to resume.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import get_args

import torch

from backend.base.command_line import CommandParser, run
from backend.base.errors import SettingsError
from backend.base.settings import OverlapName, Settings, load_settings
from backend.base.strategy_names import STRATEGIES
from backend.network.device import find_device
from backend.rounds.embeddings import start_body
from scripts.console.options import at_least
from scripts.console.progress_bars import progress_bar
from scripts.research.adapted_body import adapt_body, check_same_pool, find_body
from scripts.research.budget_report import compare_with_random, labels_for_reference
from scripts.research.crowd import real_annotations
from scripts.research.curve_plot import draw, strategy_lines
from scripts.research.experiment import open_experiment
from scripts.research.learning_curves import (
    BASELINE,
    Row,
    curves,
    read_rows,
    summarize,
    write_rows,
)
from scripts.research.oracle import OracleProject
from scripts.research.simulation import (
    Plan,
    Run,
    claim,
    finished_rows,
    make_loop,
    pool_of,
    run_missing,
)
from scripts.research.trial_strategies import TRIAL_ARMS
from scripts.research.trials import run_resumable


def main() -> int:
    """Execute the runs that are missing, then write and print the results."""
    return run_resumable(partial(_simulate, _parser().parse_args()))


def _simulate(arguments: argparse.Namespace) -> None:
    settings, arms = load_settings(), arguments.strategies
    if arguments.seed_labels is None:
        arguments.seed_labels = 0 if arguments.budgets else 100
    if any("+" in arm for arm in arms) and not arguments.annotators:
        raise SettingsError("several annotations per image require --annotators with a CSV file")
    reference = _read_reference(arguments.reference)
    plan = _make_plan(arguments, settings)
    claim(arguments.out, plan)
    body, start = _find_start(plan, arguments, settings)
    runs = _make_runs(arguments, settings, plan, body)
    sentence = _describe(plan, arms, arguments.repeats, start)
    print(sentence)
    _prepare(runs[0])
    run_missing(runs, arguments.jobs)
    rows = [row for run in runs for row in finished_rows(run)]
    write_rows(arguments.out / "curves.csv", rows)
    summary = summarize(rows, arms, plan.budgets)
    if plan.budgets:
        summary += compare_with_random(rows, arms, plan.budgets)
    if reference:
        summary += labels_for_reference(rows, arms, reference)
    (arguments.out / "summary.md").write_text(f"{sentence}\n{summary}")
    draw(strategy_lines(rows, arms), arguments.out / "curves")
    print(f"\n{summary}\n{arguments.out}/curves.csv, summary.md, curves.png, curves.svg")


def _read_reference(path: Path | None) -> list[Row]:
    """Read the results of another simulation, before hours are spent on this one."""
    if path is None:
        return []
    try:
        rows = read_rows(path, Row)
        curves(rows, BASELINE)
    except (OSError, ValueError, SettingsError) as error:
        raise SettingsError(f"--reference {path} cannot be used: {error}") from None
    return rows


def _make_plan(arguments: argparse.Namespace, settings: Settings) -> Plan:
    """Open the pool and the weights, and check that the plan is possible."""
    experiment = open_experiment(settings, seed=0)
    plan = Plan(
        pool=experiment.pool.name,
        weights=experiment.weights.name,
        image_size=experiment.pool.image_size,
        train=arguments.train,
        seed_labels=arguments.seed_labels,
        rounds=arguments.rounds,
        batch=arguments.batch,
        pool_fraction=arguments.pool_fraction,
        duplicates=arguments.duplicates,
        annotators=arguments.annotators or "",
        people=arguments.people,
        budgets=tuple(arguments.budgets),
        adapt=arguments.adapt,
        adapt_from=str(arguments.adapt_from or ""),
    )
    if arguments.adapt_from:
        check_same_pool(plan, arguments.adapt_from)
    pool, _ = pool_of(plan, settings.data_dir)
    if plan.seed_labels > len(pool.image_ids):
        raise SettingsError(
            f"--seed-labels {plan.seed_labels}: the pool has only {len(pool.image_ids)} images"
        )
    if plan.annotators:
        real_annotations(plan.annotators, pool, pool.image_ids)
    return plan


def _find_start(
    plan: Plan, arguments: argparse.Namespace, settings: Settings
) -> tuple[Path | None, str]:
    """Return the adapted body, if any, and a description of the body that heads are fitted on."""
    if not (plan.adapt or plan.adapt_from):
        return None, "an untrained body" if plan.weights == "none" else "the pre-trained body"
    if plan.adapt_from:
        path, body = find_body(Path(plan.adapt_from))
    else:
        pool, _ = pool_of(plan, settings.data_dir)
        device = find_device(settings.device)
        with progress_bar() as progress:
            path, body = adapt_body(plan, pool, arguments.out, settings.data_dir, device, progress)
    return path, body.describe()


def _make_runs(
    arguments: argparse.Namespace, settings: Settings, plan: Plan, body: Path | None
) -> list[Run]:
    device = find_device(settings.device)
    n_gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    return [
        Run(
            plan=plan,
            arm=arm,
            repeat=repeat,
            folder=arguments.out / "runs" / f"{arm}-{repeat}",
            data_dir=settings.data_dir,
            device=f"cuda:{number % n_gpus}" if n_gpus else "cpu",
            threads=max(1, (os.cpu_count() or 1) // arguments.jobs),
            body=body,
        )
        # Run all strategies of a seed before the next seed, so that the results of an interrupted
        # simulation are still paired.
        for number, (repeat, arm) in enumerate(
            product(range(arguments.repeats), arguments.strategies)
        )
    ]


def _prepare(run: Run) -> None:
    """Embed the pool once, for all runs."""
    pool, _ = pool_of(run.plan, run.data_dir)
    loop = make_loop(run, pool, OracleProject(pool.classes))
    if loop.has_pretrained_body:
        with progress_bar() as progress:
            start_body(loop, progress)


def _describe(plan: Plan, arms: Sequence[str], repeats: int, body: str) -> str:
    model = f"heads on {body}" if plan.train == "head" else f"full training runs from {body}"
    copies = f", each image {plan.duplicates} times" if plan.duplicates > 1 else ""
    part = f", {plan.pool_fraction:.0%} of the pool" if plan.pool_fraction < 1 else ""
    people = f", real annotations by {plan.people} annotators" if plan.annotators else ""
    start = f"{plan.seed_labels} seed labels" if plan.seed_labels else "no seed labels"
    batches = f"{plan.rounds} batches of {plan.batch}"
    if plan.budgets:
        batches = f"{plan.n_versions} versions up to {plan.last_budget:,} labels"
    return (
        f"{', '.join(arms)}: {start}, {batches}, {repeats} "
        f"paired seeds, {model}; pool {plan.pool}, weights {plan.weights}{part}{copies}{people}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(description=__doc__)
    add = parser.add_argument
    positive = at_least(1)
    jobs = torch.cuda.device_count() or os.cpu_count() or 1
    add("--strategies", type=_arms, default="auto,least_confidence,random", help="comma-separated")
    add("--rounds", type=positive, default=10, help="number of batches to query")
    add("--batch", type=positive, default=100, help="annotations per round")
    add(
        "--budgets",
        type=_budgets,
        default=(),
        help="numbers of labels to measure at, such as 10,100,1000; replaces --rounds and --batch",
    )
    add(
        "--seed-labels",
        type=at_least(0),
        help="0: each strategy chooses its own first batch (default: 100; with --budgets: 0)",
    )
    add("--repeats", type=positive, default=5, help="number of seeds, the same for all strategies")
    add("--out", type=Path, default="var/sim", help="the simulation's folder; rerun to resume")
    add("--train", choices=("head", "full"), default="head", help="head: minutes; full: hours")
    _add_body_options(parser)
    add(
        "--pool-fraction",
        type=_share,
        default=1.0,
        help="share of the pool to use, for a quick test",
    )
    add("--duplicates", type=positive, default=1, help="how many times each image is in the pool")
    add("--annotators", help="a CSV of real annotations: image, annotator_1, annotator_2, …")
    add(
        "--people", type=at_least(4), default=10, help="how many annotators share these annotations"
    )
    add("--jobs", type=positive, default=jobs, help="number of parallel runs")
    return parser


def _add_body_options(parser: CommandParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--adapt",
        type=_minutes,
        default=0.0,
        metavar="MINUTES",
        help="first adapt a body to the pool for this long; all runs start from it",
    )
    which.add_argument(
        "--adapt-from",
        type=Path,
        metavar="FOLDER",
        help="start from the body that another simulation of this pool adapted",
    )
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="CSV",
        help="the curves.csv of a simulation without adapting: report how many labels each "
        "strategy needs for the final accuracy of its random runs",
    )


def _budgets(text: str) -> list[int]:
    budgets = [int(number) for number in text.split(",")]
    if budgets != sorted(set(budgets)) or budgets[0] < 2:
        raise argparse.ArgumentTypeError("must be ascending numbers, from 2")
    return budgets


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 0 < minutes <= 1440:
        raise argparse.ArgumentTypeError("must be greater than 0 and at most 1440")
    return minutes


def _arms(text: str) -> list[str]:
    """Parse strategies, each optionally followed by +1 (the default), +auto, +2 or +3."""
    given = (name.strip().removesuffix("+1") for name in text.split(","))
    arms = list(dict.fromkeys(name for name in given if name))
    names = (*STRATEGIES, *TRIAL_ARMS)
    known = {f"{s}{o}" for s in names for o in ("", *(f"+{o}" for o in get_args(OverlapName)))}
    unknown = [arm for arm in arms if arm not in known]
    if unknown or not arms:
        raise argparse.ArgumentTypeError(
            f"{', '.join(unknown) or 'nothing'} is not a strategy; choose from "
            f"{', '.join(names)}, each also with +auto, +2 or +3 annotations"
        )
    return arms


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError("must be greater than 0 and at most 1")
    return share


if __name__ == "__main__":
    run(main)
