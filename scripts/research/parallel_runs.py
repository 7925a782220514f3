"""Run the missing runs of a simulation, several at a time, each in a separate process."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from functools import partial
from itertools import count

from threadpoolctl import threadpool_limits

from scripts.console.progress_bars import progress_bar
from scripts.research.learning_curves import Row, read_rows, write_rows
from scripts.research.simulation import Run, simulate

FINISHED = "finished.csv"


def finished_rows(run: Run) -> list[Row]:
    """Return the rows of a run that has finished."""
    return read_rows(run.folder / FINISHED)


def run_missing(runs: Sequence[Run], jobs: int) -> None:
    """Run the unfinished runs, `jobs` at a time; finished runs are kept even if a later one fails.

    The first error, or Ctrl-C, ends all other runs.
    """
    missing = [run for run in runs if not (run.folder / FINISHED).exists()]
    total = sum(run.plan.rounds + bool(run.plan.seed_labels) for run in missing)
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
    """Do a run from its start, keep its rows, and delete its models."""
    shutil.rmtree(run.folder, ignore_errors=True)
    run.folder.mkdir(parents=True)
    with threadpool_limits(run.threads):
        rows = simulate(run, on_round)
    shutil.rmtree(run.folder / "models")
    write_rows(run.folder / FINISHED, rows)
