"""Measure the cost of an annotation between training runs, with few and many annotations.

One process does the work of the ranker's job, on a database and a model folder like the loop's. A
substitute for Label Studio counts the data that Label Studio would send. Only the consensus and the
fit may take longer with more annotations.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import create_autospec, patch

from backend.queue.training_queue import Hints, TrainingQueue
from backend.rounds import rounds
from backend.rounds.loop import Loop
from backend.rounds.observe import observe, read_changes
from backend.store import project_db
from backend.store.project_store import ProjectStore
from scripts.research.measurement import Figure, announce
from scripts.research.oracle import CountingProject
from scripts.research.random_project import PROJECT, make_annotated_project

SIZES = (1_000, 10_000, 100_000)
TRIES = 3
OPEN = 40
NEVER_QUERIED = 2_000
kB = 1000
# The costs of one annotation, from observing the project to the new order: name, format, target.
ROWS = (
    ("reading changes", "{:.3f} s", "flat"),
    ("consensus", "{:.2f} s", "measured"),
    ("fit, with reading embeddings and scoring the pool", "{:.2f} s", "measured"),
    ("the rest: saving, promoting, ordering", "{:.2f} s", "flat"),
    ("written to database and small files", "{:,.0f} kB", "flat"),  # NaN: not on Linux
    ("written of the head's tensors, without the pool's scores", "{:,.0f} kB", "flat"),
    ("written of the pool's scores", "{:,.0f} kB", "measured"),
    (f"read from Label Studio, {OPEN} open tasks", "{:,.0f} kB", "flat"),
    ("of these, changed tasks", "{:.0f}", "flat"),
)


def refit_figures() -> list[Figure]:
    """Measure the cost of an annotation in a project with few annotations and in one with many."""
    announce("measuring what an annotation costs between two training runs")
    sizes = " / ".join(f"{size:,}" for size in SIZES)
    of_sizes = zip(*map(measure_refits, SIZES), strict=True)
    return [
        Figure(f"a head at {sizes} annotations", "", ""),
        *(
            Figure(f"  … {name}", " / ".join(map(form.format, values)), target)
            for (name, form, target), values in zip(ROWS, of_sizes, strict=True)
        ),
    ]


def measure_refits(n_annotations: int) -> tuple[float, ...]:
    """Return the best value of TRIES runs for each row of ROWS, with `n_annotations` annotations.

    The pool has NEVER_QUERIED more images than there are annotations.
    """
    n_images = n_annotations + NEVER_QUERIED
    with tempfile.TemporaryDirectory(prefix="tightloop-") as folder:
        loop, project = make_annotated_project(Path(folder), n_annotations, n_images, OPEN + TRIES)
        # Keep a connection open, as the clock does. Otherwise, SQLite would copy its log into the
        # database whenever a connection closes.
        with closing(project_db.connect(loop.root)):
            gc.collect()
            gc.freeze()  # as the workers do
            tries = [_measure(loop, project) for _ in range(TRIES)]
            gc.unfreeze()
    return tuple(map(min, *tries))


def _measure(loop: Loop, project: CountingProject) -> tuple[float, ...]:
    """Annotate a task, then do all due work as the ranker's job would, without caches."""
    loop = replace(loop, pool=replace(loop.pool))
    queue = create_autospec(TrainingQueue, instance=True)  # without hints, and without Redis
    queue.hints.return_value, queue.annotated_since.return_value = Hints(), {}
    look = partial(observe, loop.root, queue, PROJECT)
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
    return (
        seconds["reading"],
        seconds["consensus"],
        fit_s,
        seconds["all"] - seconds["reading"] - seconds["consensus"] - fit_s,
        written / kB,
        (n_tensors - scores) / kB,
        scores / kB,
        project.bytes_read / kB,
        project.tasks_read,
    )


@contextmanager
def _timed(seconds: Counter[str], phase: str) -> Iterator[None]:
    """Add up the seconds that a block, or each call of a decorated function, takes."""
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds[phase] += time.perf_counter() - began  # type: ignore[assignment]


def _written_bytes() -> float:
    """Return how many bytes this process has written, or NaN if the system does not report it."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return float("nan")
    return float(dict(line.split(": ") for line in lines)["wchar"])
