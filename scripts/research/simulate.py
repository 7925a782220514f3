"""The loop with an oracle: how many labels each query strategy needs, against random.

    python -m scripts.research.simulate --strategies auto,random --rounds 20 --batch 100

Runs the very same rounds as with people, once per strategy and seed, in parallel; writes
curves.csv, summary.md and curves.png/.svg below --out. Broken off, it goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import count, product
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from backend.asking.diversity import Positions
from backend.base.command_line import CommandParser, run
from backend.base.errors import SettingsError, TightloopError
from backend.base.labeling import NewTask
from backend.base.progress import Progress
from backend.base.settings import OverlapName, Settings, load_settings
from backend.base.strategy_names import STRATEGIES
from backend.images.pool import Pool, open_pool, seed_labels, true_labels
from backend.network.device import find_device
from backend.network.training import Recipe
from backend.rounds import batches, rounds
from backend.rounds.loop import Loop
from backend.rounds.versions import has_pretrained_body, pretrained_body
from backend.store import pool_scores, registry
from backend.store.weights import find_weights
from scripts.progress import progress_bar
from scripts.research.crowd import Crowd, real_answers
from scripts.research.learning_curves import Row, draw, read_rows, summarize, write_rows
from scripts.research.oracle import OracleProject

FINISHED = "finished.csv"


@dataclass(frozen=True)
class Plan:
    """What all runs of one simulation share; a folder holds one plan."""

    pool: str
    weights: str
    image_size: int
    train: Literal["head", "full"]
    seed_labels: int
    rounds: int
    batch: int
    pool_fraction: float
    duplicates: int
    annotators: str
    people: int


@dataclass(frozen=True)
class Run:
    """One strategy with one seed."""

    plan: Plan
    strategy: str
    overlap: OverlapName
    repeat: int
    folder: Path
    data_dir: Path
    device: str
    threads: int


def main() -> int:
    """Run what is not there yet, then print the table; 1 where something is in the way."""
    arguments = _parser().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the runs would outlive us
    try:
        settings = load_settings()
        strategies = _strategies(arguments.strategies)
        if any("+" in name for name in strategies) and not arguments.annotators:
            raise SettingsError("several answers to an image need --annotators, who give them")
        with progress_bar() as progress:
            plan = _plan(arguments, settings, progress)
        out = Path(arguments.out)
        _claim(out, plan)
        runs = _runs(arguments, settings, plan, strategies, out)
        print(_sentence(plan, strategies, arguments.repeats))
        _prepare(plan, settings)
        _run_all([run for run in runs if not (run.folder / FINISHED).exists()], arguments.jobs)
        rows = [row for run in runs for row in read_rows(run.folder / FINISHED)]
        write_rows(out / "curves.csv", rows)
        summary = summarize(rows, strategies)
        (out / "summary.md").write_text(
            f"{_sentence(plan, strategies, arguments.repeats)}\n{summary}"
        )
        draw(rows, strategies, out / "curves")
    except TightloopError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped: the same command goes on with the runs that are missing", file=sys.stderr)
        return 130
    print(f"\n{summary}\n{out}/curves.csv, summary.md, curves.png, curves.svg")
    return 0


def simulate(run: Run, on_round: Callable[[], object] = lambda: None) -> list[Row]:
    """All rounds of one run."""
    torch.set_num_threads(run.threads)
    pool, truth = pool_of(run.plan, run.data_dir)
    project = OracleProject(pool.classes)
    loop = _loop(run, pool, project)
    people = None
    if run.plan.annotators:
        rng = np.random.default_rng([run.repeat, 3])
        answers = real_answers(run.plan.annotators, pool)
        people = Crowd(answers, pool.classes, run.plan.people, rng)
    if run.plan.seed_labels:
        seeds = seed_labels(pool, run.plan.seed_labels, run.repeat, truth)
        project.import_tasks([NewTask(i, {}, label=label) for i, label in seeds.items()])
    while len(project.labels()) < 2:  # nothing can be learned from one class
        batches.top_up(loop)
        _answer(project, truth, people)
    rows: list[Row] = []
    budget = run.plan.seed_labels + run.plan.rounds * run.plan.batch
    while not rows or rows[-1].labels < budget:
        rounds.train_round(loop, is_forced=False, progress=lambda *_: None)
        rows.append(_row(run, loop, project, len(rows)))
        on_round()
        if not _answer(project, truth, people):
            break  # the pool is exhausted
    return rows


def _answer(project: OracleProject, truth: Mapping[str, str], people: Crowd | None) -> int:
    """Answer all open tasks, rightly or as people do; how many there were."""
    if people is None:
        return project.answer_open_tasks(truth)
    open_tasks = project.open_tasks()
    for task in open_tasks:
        person = people.pick({a.annotator for a in project.answers.get(task.task_id, ())})
        shown = project.predictions[task.task_id].get(project.version)
        label = people.answer(person, task.image_id, shown.label if shown else None)
        is_taken = shown is not None and label == shown.label and person == people.clicker
        project.answer(task.task_id, label, annotator=person, accepted_guess=is_taken)
    return len(open_tasks)


def _row(run: Run, loop: Loop, project: OracleProject, number: int) -> Row:
    current = registry.current(loop.root)
    assert current is not None, "a round was trained"
    test = current.test or current.validation
    calibration = current.calibration
    return Row(
        strategy=_arm(run.strategy, run.overlap),
        repeat=run.repeat,
        round=number + 1,
        labels=project.counts().annotations,
        test_accuracy=test.accuracy,
        validation_accuracy=current.validation.accuracy,
        validation_images=current.validation.images,
        calibration_error=(calibration.test_error_after or 0.0) if calibration else 0.0,
        version=current.version,
    )


def _loop(run: Run, pool: Pool, project: OracleProject) -> Loop:
    return Loop(
        root=run.folder / "models",
        project=project,
        pool=pool,
        weights=run.plan.weights,
        data_dir=run.data_dir,
        recipe=Recipe(image_size=run.plan.image_size),
        train=run.plan.train,
        strategy=run.strategy,  # type: ignore[arg-type]  # _strategies
        overlap=run.overlap,
        # With N answers to each image as many questions are N times fewer images.
        batch_size=max(1, run.plan.batch // (1 if run.overlap == "auto" else int(run.overlap))),
        rounds=0,
        keep_versions=0,
        is_blind=False,
        task_lock_s=0,
        seed=run.repeat,
        device=torch.device(run.device),
    )


# The pool


@cache
def pool_of(plan: Plan, data_dir: Path) -> tuple[Pool, dict[str, str]]:
    """The pool that is asked, and the true label of each of its images."""
    whole = open_pool(plan.pool, data_dir, seed=0, rescan=False)
    truth = true_labels(whole)
    if plan.duplicates == 1 and plan.pool_fraction == 1:
        return whole, truth
    rows, copies = _part(plan, len(whole.image_ids))
    ids = [whole.image_ids[row] for row in rows]
    names = tuple(f"{i}~{copy}" if copy else i for i, copy in zip(ids, copies, strict=True))
    pool = replace(
        whole,
        image_ids=names,
        images=whole.images[rows],
        paths=tuple(whole.paths[row] for row in rows) if whole.paths else (),
    )
    return pool, {name: truth[i] for name, i in zip(names, ids, strict=True)}


def _part(plan: Plan, n_images: int) -> tuple[Positions, Positions]:
    """Rows of the whole pool that are asked, and the number of each copy.

    With duplicates the pool keeps its size: fewer images, each as often as asked.
    """
    n_kept = max(1, round(n_images * plan.pool_fraction))
    n_distinct = max(1, n_kept // plan.duplicates)
    chosen = np.sort(np.random.default_rng(0).permutation(n_images)[:n_distinct])
    return np.tile(chosen, plan.duplicates), np.repeat(np.arange(plan.duplicates), n_distinct)


def _prepare(plan: Plan, settings: Settings) -> None:
    """Decode the pool and embed it once, for all runs."""
    whole = open_pool(plan.pool, settings.data_dir, seed=0, max_pixels=settings.max_image_pixels)
    device = find_device(settings.device)
    run = Run(plan, "random", "1", 0, Path(), settings.data_dir, str(device), 1)
    loop = _loop(run, whole, OracleProject(whole.classes))
    if not has_pretrained_body(loop):
        return
    with progress_bar() as progress:
        body, kept = pretrained_body(loop, progress)
    pool, _ = pool_of(plan, settings.data_dir)
    key = (loop.shared_embeddings, registry.body_key(body), plan.image_size, pool.image_ids)
    if pool_scores.load_embeddings(*key) is None:
        rows, _ = _part(plan, len(whole.image_ids))
        pool_scores.save_embeddings(*key, replace(kept, pool=kept.pool[rows]))


# Running


def _run_all(runs: Sequence[Run], jobs: int) -> None:
    """Run what is missing, `jobs` at a time; a finished one is kept whatever comes after."""
    if not runs:
        return
    plan = runs[0].plan
    total = len(runs) * (plan.rounds + bool(plan.seed_labels))
    if jobs == 1:
        numbers = count(1)
        with progress_bar() as progress:
            progress("simulating", 0, total)
            for run in runs:
                _finish(run, lambda: progress("simulating", next(numbers), total))
        return
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    n_rounds = context.Value("q", 0)
    with (
        progress_bar() as progress,
        ProcessPoolExecutor(jobs, context, _share_count, (n_rounds,)) as processes,
    ):
        waiting = {processes.submit(_finish, run, _count_up) for run in runs}
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=0.5)
                progress("simulating", n_rounds.value, total)
                for future in done:
                    future.result()
        except BaseException:
            processes.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


_count: Any = None


def _share_count(count: Any) -> None:
    global _count  # a process pool can hand a shared number over in no other way
    _count = count


def _count_up() -> None:
    with _count.get_lock():
        _count.value += 1


def _finish(run: Run, on_round: Callable[[], object]) -> None:
    """Run it from its start, keep its rows, forget its models."""
    shutil.rmtree(run.folder, ignore_errors=True)
    run.folder.mkdir(parents=True)
    with threadpool_limits(run.threads):
        rows = simulate(run, on_round)
    shutil.rmtree(run.folder / "models")
    write_rows(run.folder / FINISHED, rows)


def _runs(
    arguments: argparse.Namespace,
    settings: Settings,
    plan: Plan,
    strategies: Sequence[str],
    out: Path,
) -> list[Run]:
    device = find_device(settings.device)
    n_gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    cores = os.cpu_count() or 1
    return [
        Run(
            plan=plan,
            strategy=arm.partition("+")[0],
            overlap=_overlap(arm),
            repeat=repeat,
            folder=out / "runs" / f"{arm}-{repeat}",
            data_dir=settings.data_dir,
            device=f"cuda:{number % n_gpus}" if n_gpus else "cpu",
            threads=max(1, cores // arguments.jobs),
        )
        # All strategies of one seed before the next seed: a simulation broken off is still paired.
        for number, (repeat, arm) in enumerate(product(range(arguments.repeats), strategies))
    ]


def _claim(out: Path, plan: Plan) -> None:
    """Make the folder this plan's, or find that it is; SettingsError if it is another's."""
    path = out / "plan.json"
    text = json.dumps(asdict(plan), indent=2)
    if path.exists() and path.read_text() != text:
        raise SettingsError(
            f"{out} holds a simulation with other settings (see {path}): "
            "choose another folder with --out, or delete this one"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise SettingsError(f"--out {out} cannot be written: {error.strerror}") from None


def _plan(arguments: argparse.Namespace, settings: Settings, progress: Progress) -> Plan:
    annotators = arguments.annotators or ""
    if annotators and not Path(annotators).is_file():
        raise SettingsError(f"--annotators {annotators}: no such file")
    pool = open_pool(
        settings.pool,
        settings.data_dir,
        seed=0,
        max_pixels=settings.max_image_pixels,
        progress=progress,
    )
    weights = find_weights(settings.weights, settings.data_dir, progress=progress)
    if arguments.seed_labels > len(pool.image_ids):
        raise SettingsError(
            f"--seed-labels {arguments.seed_labels}: the pool has only {len(pool.image_ids)} images"
        )
    for notice in filter(None, (pool.notice, weights.notice)):
        print(f"NOTE      {notice}")
    return Plan(
        pool=pool.name,
        weights=weights.name,
        image_size=settings.image_size,
        train=arguments.train,
        seed_labels=arguments.seed_labels,
        rounds=arguments.rounds,
        batch=arguments.batch,
        pool_fraction=arguments.pool_fraction,
        duplicates=arguments.duplicates,
        annotators=annotators,
        people=arguments.people,
    )


def _strategies(text: str) -> list[str]:
    given = (name.strip().removesuffix("+1") for name in text.split(","))
    names = list(dict.fromkeys(name for name in given if name))
    overlaps = get_args(OverlapName)
    unknown = [
        name
        for name in names
        if name.partition("+")[0] not in STRATEGIES or name.partition("+")[2] not in ("", *overlaps)
    ]
    if unknown or not names:
        raise SettingsError(
            f"--strategies {text}: {', '.join(unknown) or 'nothing'} is no strategy; "
            f"there are {', '.join(STRATEGIES)}, each also with +auto, +2 or +3 answers"
        )
    return names


def _overlap(arm: str) -> OverlapName:
    return arm.partition("+")[2] or "1"  # type: ignore[return-value]  # _strategies


def _arm(strategy: str, overlap: OverlapName) -> str:
    return strategy if overlap == "1" else f"{strategy}+{overlap}"


def _sentence(plan: Plan, strategies: Sequence[str], repeats: int) -> str:
    body = "an untrained body" if plan.weights == "none" else "the pre-trained body"
    model = f"heads on {body}" if plan.train == "head" else "full trainings"
    copies = f", each image {plan.duplicates} times" if plan.duplicates > 1 else ""
    part = f", {plan.pool_fraction:.0%} of the pool" if plan.pool_fraction < 1 else ""
    people = f", real answers by {plan.people} people" if plan.annotators else ""
    start = f"{plan.seed_labels} seed labels" if plan.seed_labels else "no seed labels"
    return (
        f"{', '.join(strategies)}: {start}, {plan.rounds} batches of {plan.batch}, {repeats} "
        f"paired seeds, {model}; pool {plan.pool}, weights {plan.weights}{part}{copies}{people}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--strategies", default="auto,least_confidence,random", help="by commas")
    parser.add_argument("--rounds", type=_at_least(1), default=10, help="batches that are asked")
    parser.add_argument("--batch", type=_at_least(1), default=100, help="images a round")
    parser.add_argument(
        "--seed-labels", type=_at_least(0), default=100, help="0: each strategy's own first batch"
    )
    parser.add_argument("--repeats", type=_at_least(1), default=5, help="seeds, same for all")
    parser.add_argument("--out", default="var/sim", help="a folder; it goes on where it was")
    parser.add_argument(
        "--train", choices=("head", "full"), default="head", help="head: minutes; full: hours"
    )
    parser.add_argument("--pool-fraction", type=_share, default=1.0, help="for quick looks")
    parser.add_argument(
        "--duplicates", type=_at_least(1), default=1, help="how often each image is in the pool"
    )
    parser.add_argument(
        "--annotators", help="a CSV of people's answers: image, annotator_1, annotator_2, …"
    )
    parser.add_argument(
        "--people", type=_at_least(4), default=10, help="how many those answers are dealt to"
    )
    parser.add_argument(
        "--jobs",
        type=_at_least(1),
        default=max(1, torch.cuda.device_count() or os.cpu_count() or 1),
        help="runs at a time",
    )
    return parser


def _at_least(least: int) -> Any:
    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more")
        return int(text)

    return number


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError("must be above 0 and at most 1")
    return share


if __name__ == "__main__":
    run(main)
