"""Run a simulation: the loop's own rounds, annotated by an oracle or a simulated crowd."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from backend.base.arrays import RowView
from backend.base.errors import SettingsError
from backend.base.labeling import NewTask
from backend.base.settings import Settings
from backend.images.known_labels import seed_labels, true_labels
from backend.images.pool import Pool, open_pool
from backend.images.validation_sample import KNOWN, Validation
from backend.network.training import Recipe
from backend.rounds import batches, rounds
from backend.rounds.loop import Loop
from backend.store.registry import Registry
from scripts.console.progress_bars import progress_bar
from scripts.research.budgets import training_points
from scripts.research.crowd import Crowd, real_annotations
from scripts.research.learning_curves import Row, read_rows, write_rows
from scripts.research.oracle import LONG_AGO, OracleProject
from scripts.research.trial_strategies import TRIAL_ARMS, current_strategy, use_trials

PLAN = "plan.json"
FINISHED = "finished.csv"


@dataclass(frozen=True)
class Plan:
    """The settings that all runs of a simulation share; saved as plan.json in its folder."""

    pool: str
    weights: str
    image_size: int
    train: Literal["head", "full"]
    seed_labels: int
    rounds: int
    batch: int
    pool_fraction: float
    duplicates: int
    annotators: str  # a CSV file of real annotations; "" = the oracle annotates
    people: int
    budgets: tuple[int, ...] = ()  # numbers of labels to measure at, instead of rounds and batch
    adapt: float = 0.0  # minutes for which the body is adapted to the pool; 0 = not at all
    adapt_from: str = ""  # the folder of the simulation that adapted the body; "" = this one

    @property
    def n_versions(self) -> int:
        """Return how many versions each run trains."""
        if self.budgets:
            return len(training_points(self.budgets, self.seed_labels))
        return self.rounds + bool(self.seed_labels)

    @property
    def last_budget(self) -> int:
        """Return the number of labels at which a run ends."""
        return self.budgets[-1] if self.budgets else self.seed_labels + self.rounds * self.batch


@dataclass(frozen=True)
class Run:
    """One strategy with one seed."""

    plan: Plan
    arm: str  # a strategy, or a strategy and an overlap: "margin+auto"
    repeat: int
    folder: Path
    data_dir: Path
    device: str
    threads: int
    validation: Validation = KNOWN
    body: Path | None = None  # the adapted body; None = the plan's weights

    @property
    def strategy(self) -> str:
        """Return the name of the arm's strategy."""
        return self.arm.partition("+")[0]


def simulate(run: Run, on_round: Callable[[], object] = lambda: None) -> list[Row]:
    """Run all rounds, and return the accuracy of each version."""
    torch.set_num_threads(run.threads)
    if run.strategy in TRIAL_ARMS:
        use_trials()
    plan = run.plan
    pool, truth = pool_of(plan, run.data_dir, run.validation)
    # With budgets, annotations are given long ago: batches must not grow with the people at work.
    project = OracleProject(pool.classes, given_ago=LONG_AGO if plan.budgets else timedelta())
    loop = make_loop(run, pool, project)
    crowd = None
    if plan.annotators:
        rng = np.random.default_rng([run.repeat, 3])
        real = real_annotations(plan.annotators, pool, pool.image_ids)
        crowd = Crowd(real, pool.classes, plan.people, rng)
    if plan.seed_labels:
        known = {image_id: truth[image_id] for image_id in pool.image_ids}
        seeds = seed_labels(pool, plan.seed_labels, run.repeat, known)
        project.import_tasks([NewTask(i, {}, label=label) for i, label in seeds.items()])
    while len(project.labels()) < 2:  # a model cannot learn from a single class
        next_loop, n_wanted = _next_batch(loop, run, project)
        batches.top_up(next_loop)
        _annotate_open_tasks(project, truth, crowd, n_wanted)
    rows: list[Row] = []
    while not rows or rows[-1].labels < plan.last_budget:
        next_loop, n_wanted = _next_batch(loop, run, project)
        rounds.train_round(next_loop, is_forced=False, progress=lambda *_: None)
        rows.append(_row(run, loop.root, project, len(rows) + 1))
        on_round()
        if not _annotate_open_tasks(project, truth, crowd, n_wanted):
            break  # the pool is exhausted
    return rows


def _next_batch(loop: Loop, run: Run, project: OracleProject) -> tuple[Loop, int | None]:
    """Return the loop that queries the next batch, and how many annotations will be given.

    With a fixed batch size, all open tasks are annotated, and the number is None.
    """
    plan, n_given = run.plan, project.counts().annotations
    n_asked, n_classes = project.n_tasks(), len(loop.pool.classes)
    strategy = current_strategy(run.strategy, n_asked=n_asked, n_classes=n_classes)
    changes: dict[str, object] = {"strategy": strategy}
    n_wanted = None
    if plan.budgets:
        points = training_points(plan.budgets, plan.seed_labels)
        n_wanted = next((point - n_given for point in points if point > n_given), 1)
        changes["batch_size"] = n_wanted
    return replace(loop, settings=loop.settings.model_copy(update=changes)), n_wanted


def _annotate_open_tasks(
    project: OracleProject,
    truth: Mapping[str, str],
    crowd: Crowd | None,
    n_wanted: int | None = None,
) -> int:
    """Have the oracle or the crowd annotate open tasks, at most `n_wanted`; return their number."""
    open_tasks = project.open_tasks()[:n_wanted]
    for task in open_tasks:
        if crowd is None:
            project.answer(task.task_id, truth[task.image_id])
            continue
        annotator = crowd.pick({a.annotator for a in project.answers.get(task.task_id, ())})
        shown = project.predictions[task.task_id].get(project.version)
        guess = shown.label if shown else None
        label = crowd.annotate(annotator, task.image_id, guess)
        accepted_guess = label == guess and annotator == crowd.guess_accepter
        project.answer(task.task_id, label, annotator=annotator, accepted_guess=accepted_guess)
    return len(open_tasks)


def _row(run: Run, root: Path, project: OracleProject, number: int) -> Row:
    current = Registry(root).current()
    assert current is not None, "a round was trained"
    assert current.validation is not None, "the pool has a validation split"
    return Row(
        strategy=run.arm,
        repeat=run.repeat,
        round=number,
        labels=project.counts().annotations,
        test_accuracy=(current.test or current.validation).accuracy,
        validation_accuracy=current.validation.accuracy,
        validation_images=current.validation.images,
        calibration_error=(current.calibration and current.calibration.test_error_after) or 0.0,
        version=current.version,
    )


def make_loop(run: Run, pool: Pool, project: OracleProject) -> Loop:
    """Return a loop like the one that a stack's processes would open."""
    overlap = run.arm.partition("+")[2]
    settings = Settings.model_construct(
        data_dir=run.data_dir,
        train=run.plan.train,
        strategy=run.strategy,  # type: ignore[arg-type]  # checked by the command
        overlap=overlap or "1",  # type: ignore[arg-type]
        # With N annotations per image, the same number of annotations covers N times fewer images.
        batch_size=max(1, run.plan.batch // (int(overlap) if overlap.isdigit() else 1)),
        keep_versions=0,
        task_lock_s=0,
    )
    return Loop(
        settings=settings,
        root=run.folder / "models",
        project=project,
        choices=pool.classes,
        pool=pool,
        weights=str(run.body or run.plan.weights),
        recipe=Recipe(image_size=run.plan.image_size),
        seed=run.repeat,
        device=torch.device(run.device),
        validation_labels=run.validation.n_labels,
    )


@cache
def pool_of(
    plan: Plan, data_dir: Path, validation: Validation = KNOWN
) -> tuple[Pool, dict[str, str]]:
    """Return the pool of a plan, and the true label of each image that annotators may be asked for.

    With duplicates, the pool keeps its size, but has fewer distinct images, each repeated.
    """
    open_with = partial(
        open_pool, plan.pool, data_dir, seed=0, image_size=plan.image_size, rescan=False
    )
    whole = open_with()
    truth = true_labels(whole)
    if validation != KNOWN:
        held_out = zip(whole.validation.image_ids, whole.validation.labels, strict=True)
        truth |= {image_id: whole.classes[label] for image_id, label in held_out}
        whole = open_with(validation=validation)
    if plan.duplicates == 1 and plan.pool_fraction == 1:
        return whole, truth
    n_images = len(whole.image_ids)
    n_distinct = max(1, max(1, round(n_images * plan.pool_fraction)) // plan.duplicates)
    distinct = np.sort(np.random.default_rng(0).permutation(n_images)[:n_distinct])
    original = {  # keyed by the name of the copy; the first copy keeps the image's name
        f"{whole.image_ids[row]}~{copy}" if copy else whole.image_ids[row]: row
        for copy in range(plan.duplicates)
        for row in distinct
    }
    rows = list(original.values())
    pool = replace(
        whole,
        image_ids=tuple(original),
        images=RowView(whole.images, np.array(rows)),
        source=whole.source if plan.duplicates == 1 else None,  # copies have no files of their own
    )
    labels = {name: truth[whole.image_ids[row]] for name, row in original.items()}
    return pool, labels | {image_id: truth[image_id] for image_id in whole.sample.image_ids}


def claim(out: Path, plan: Plan) -> None:
    """Write the plan into its folder; raise SettingsError if a different plan is already there."""
    path = out / PLAN
    text = json.dumps(asdict(plan), indent=2)
    if path.exists() and path.read_text() != text:
        raise SettingsError(
            f"{out} contains a simulation with other settings (see {path}): "
            "choose another folder with --out, or delete this one"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise SettingsError(f"--out {out} cannot be written: {error.strerror}") from None


def finished_rows(run: Run) -> list[Row]:
    """Return the rows of a run that has finished."""
    return read_rows(run.folder / FINISHED, Row)


def run_missing(runs: Sequence[Run], jobs: int) -> None:
    """Execute unfinished runs, `jobs` at a time; keep finished runs even if a later one fails.

    The first error, or Ctrl-C, ends all other runs.
    """
    missing = [run for run in runs if not (run.folder / FINISHED).exists()]
    total = sum(run.plan.n_versions for run in missing)
    if jobs == 1:
        numbers = count(1)
        with progress_bar() as progress:
            progress("simulating", 0, total)
            for run in missing:
                _finish(run, lambda: progress("simulating", next(numbers), total))
        return
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    with (
        progress_bar() as progress,
        context.Manager() as manager,
        ProcessPoolExecutor(jobs, context) as processes,
    ):
        rounds = manager.list()
        waiting = {processes.submit(_finish, run, partial(rounds.append, None)) for run in missing}
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=0.5)
                progress("simulating", len(rounds), total)
                for future in done:
                    future.result()
        except BaseException:
            processes.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _finish(run: Run, on_round: Callable[[], object]) -> None:
    """Execute a run from the start, save its rows, and delete its models."""
    shutil.rmtree(run.folder, ignore_errors=True)
    run.folder.mkdir(parents=True)
    with threadpool_limits(run.threads):
        rows = simulate(run, on_round)
    shutil.rmtree(run.folder / "models")
    write_rows(run.folder / FINISHED, rows)
