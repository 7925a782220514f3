"""Fill the disk of a stack, lock its database, and set its clock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import psutil

from backend.store.project_db import connect
from scripts.research.chaos.chaos_stack import ChaosStack
from scripts.research.chaos.fault import Fault, FaultError, Heal
from scripts.research.chaos.model_disk import fill_disk, free_disk
from scripts.research.chaos.stack_clock import OFFSET_FILE, set_stack_clock

HOUR_S = 3600
DAY_S = 24 * HOUR_S
WHILE = (15.0, 40.0)


def _fill_disk(stack: ChaosStack, _: Random) -> Heal:
    folder, writers = Path(stack.info["model_dir"]), _writers(stack)
    fill_disk(folder, writers)
    return lambda: free_disk(folder, [*writers, *_writers(stack)])


def _writers(stack: ChaosStack) -> list[psutil.Process]:
    names = ("backend", "trainer", "ranker", "clock")
    return [process for name in names for process in (stack.process(name), *stack.children(name))]


def _lock_database(stack: ChaosStack, _: Random) -> Heal:
    """Hold the lock that SQLite gives to one writer at a time."""
    db = connect(stack.root)
    db.execute("BEGIN IMMEDIATE")
    return db.close


def _set_clock(offset_s: int) -> Callable[[ChaosStack, Random], Heal]:
    def strike(stack: ChaosStack, _: Random) -> Heal:
        if OFFSET_FILE not in stack.environment:
            raise FaultError("a stack's clock can be set only if a C compiler (cc) is installed")
        set_stack_clock(stack.environment, offset_s)
        return lambda: set_stack_clock(stack.environment, 0)

    return strike


STORAGE_FAULTS = (
    Fault("a full disk under project.db and the models", _fill_disk, WHILE),
    Fault("project.db locked by another program", _lock_database, WHILE),
    Fault("the clock an hour ahead, then right", _set_clock(HOUR_S), WHILE),
    Fault("the clock a day behind, then right", _set_clock(-DAY_S), WHILE),
)
