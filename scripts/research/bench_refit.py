"""Measure the cost of an annotation between two training runs, by the number of annotations.

One process does what the ranker's job does, on a database and a model folder as the loop makes
them. A stand-in for Label Studio counts what that would send. Only the consensus and the fit may
take longer with more annotations.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

from backend.queue.training_queue import Hints, TrainingQueue
from backend.rounds import rounds
from backend.rounds.loop import Loop
from backend.rounds.observe import observe, read_changes
from backend.store import project_db
from backend.store.project_store import ProjectStore
from scripts.research.annotated_project import make_annotated_project
from scripts.research.counting_project import CountingProject
from scripts.research.figure import Figure, announce
from scripts.research.random_project import PROJECT

SIZES = (1_000, 10_000, 100_000)
TRIES = 3
OPEN = 40
NEVER_QUERIED = 2_000
kB = 1000


@dataclass(frozen=True)
class Refit:
    """The cost of one annotation, from observing the project to the new order."""

    reading_s: float  # of what changed
    consensus_s: float  # with the annotations, as the database has them
    fit_s: float  # with reading embeddings and scoring the pool
    rest_s: float  # saving, promoting, ordering, looking what is due
    written_kb: float  # database and small files, without the head's tensors; NaN: not on Linux
    scores_kb: float  # the scores of the pool among the head's tensors
    tensors_kb: float  # all the others
    tasks_read: int
    read_kb: float  # JSON that Label Studio would have sent


def refit_figures() -> list[Figure]:
    """Measure an annotation among few and among many."""
    announce("measuring what an annotation costs between two trainings")
    found = [measure_refits(size) for size in SIZES]
    sizes = " / ".join(f"{size:,}" for size in SIZES)

    def row(what: str, figure: str, digits: str, unit: str, target: str = "measured") -> Figure:
        values = " / ".join(format(getattr(refit, figure), digits) for refit in found)
        return Figure(what, f"{values} {unit}", target)

    return [
        row(f"a head at {sizes} answers: reading changes", "reading_s", ".3f", "s", "flat"),
        row("  … consensus", "consensus_s", ".2f", "s"),
        row("  … fit, with reading embeddings and scoring the pool", "fit_s", ".2f", "s"),
        row("  … the rest: keeping, promoting, ordering", "rest_s", ".2f", "s", "flat"),
        row("  … written to database and small files", "written_kb", ",.0f", "kB", "flat"),
        row("  … written of its tensors but the pool's scores", "tensors_kb", ",.0f", "kB", "flat"),
        row("  … written of the pool's scores", "scores_kb", ",.0f", "kB"),
        row(f"  … read of Label Studio, {OPEN} open tasks", "read_kb", ",.0f", "kB", "flat"),
        row("  … of it changed tasks", "tasks_read", ".0f", "", "flat"),
    ]


def measure_refits(n_annotations: int, n_images: int | None = None) -> Refit:
    """Return the best of TRIES, figure by figure, in a project with so many annotations.

    The pool has `n_images`, by default NEVER_QUERIED more than there are annotations.
    """
    n_images = n_images or n_annotations + NEVER_QUERIED
    with tempfile.TemporaryDirectory(prefix="tightloop-") as folder:
        loop, project = make_annotated_project(Path(folder), n_annotations, n_images, OPEN + TRIES)
        # As the clock keeps it open: else the last one to close it copies its log each time.
        with closing(project_db.connect(loop.root)):
            gc.collect()
            gc.freeze()  # as our workers do
            tries = [_measure(loop, project) for _ in range(TRIES)]
            gc.unfreeze()
    return Refit(**{name: min(getattr(t, name) for t in tries) for name in vars(tries[0])})


class _NoHints(TrainingQueue):
    """A queue without hints and without a Redis."""

    def __init__(self) -> None:
        pass

    def hints(self, project_id: int) -> Hints:  # noqa: ARG002
        return Hints()

    def annotated_since(self, project_id: int, moment: float) -> dict[str, float]:  # noqa: ARG002
        return {}


def _measure(loop: Loop, project: CountingProject) -> Refit:
    """Annotate a task, and do what is then due as the ranker's job does, with nothing cached."""
    loop = replace(loop, pool=replace(loop.pool))
    look = partial(observe, loop.root, _NoHints(), PROJECT)
    task_id = project.annotate_next()
    project.tasks_read = project.bytes_read = 0
    written_before = _written_bytes()
    seconds: Counter[str] = Counter()
    with _timed(seconds, "all"), ExitStack() as patches:
        for owner, name in ((rounds, "read_labels"), (ProjectStore, "annotations")):
            timed = _timed(seconds, "consensus")(getattr(owner, name))
            patches.enter_context(patch.object(owner, name, timed))
        look()
        with _timed(seconds, "reading"):
            read_changes(project, loop.store)
        look()
        meta = rounds.refit_head(loop)
        look()
    assert meta is not None, "an annotation is new"
    assert project.version == meta.version, "a head on random embeddings is no worse than the last"
    fit_s = sum(meta.seconds.values())
    tensors = {p.name: p.stat().st_size for p in (loop.root / meta.version).glob("*.safetensors")}
    scores, n_tensors = tensors["pool.safetensors"], sum(tensors.values())
    written = _written_bytes() - written_before - n_tensors
    project.age(task_id)
    return Refit(
        reading_s=seconds["reading"],
        consensus_s=seconds["consensus"],
        fit_s=fit_s,
        rest_s=seconds["all"] - seconds["reading"] - seconds["consensus"] - fit_s,
        written_kb=written / kB,
        scores_kb=scores / kB,
        tensors_kb=(n_tensors - scores) / kB,
        tasks_read=project.tasks_read,
        read_kb=project.bytes_read / kB,
    )


@contextmanager
def _timed(seconds: Counter[str], phase: str) -> Iterator[None]:
    """Add up how long a block, or each call of a decorated function, takes."""
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds[phase] += time.perf_counter() - began  # type: ignore[assignment]


def _written_bytes() -> float:
    """Return how much this process has written so far; NaN if the system does not say."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return float("nan")
    return float(dict(line.split(": ") for line in lines)["wchar"])
