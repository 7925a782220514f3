"""Break a stack in several ways while people label, and report what followed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from random import Random
from subprocess import CalledProcessError

import httpx

from backend.base.errors import TightloopError
from backend.images.known_labels import true_labels
from backend.images.pool import open_pool
from backend.store.project_record import read_record
from scripts.local.folder import StackError
from scripts.research.chaos.audit import audit
from scripts.research.chaos.catching_up import (
    wait_until_back,
    wait_until_caught_up,
    wait_until_learned,
)
from scripts.research.chaos.chaos_stack import ChaosStack
from scripts.research.chaos.fault import Fault, FaultError, Heal
from scripts.research.chaos.outcome import Outcome
from scripts.research.chaos.people import people_labeling
from scripts.research.chaos.report import Report

REST_S = (1.0, 4.0)  # between two faults
GRACE_S = 30.0  # the time to catch up beyond RECONCILE_EVERY
GIVE_UP_S = 240.0  # the time to wait beyond the limit


def break_stack(
    stack: ChaosStack,
    faults: Sequence[Fault],
    seed: int,
    announce: Callable[[str], None],
) -> Report:
    """Let the faults happen to a running stack while people label; return what followed."""
    settings, record = stack.settings, read_record(stack.root)
    assert record is not None, "the stack has a project"
    truth = true_labels(open_pool(record.pool, settings.data_dir, seed=record.seed))
    if wait_until_learned(stack, truth.keys()) is None:
        raise StackError(f"the first training run did not end: see {stack.var}/log/trainer.log")
    began = time.monotonic()
    with people_labeling(stack, truth, seed):
        outcomes = _carry_out(stack, faults, truth, seed, announce)
    learned_s = wait_until_learned(stack, truth.keys())
    findings = audit(stack, truth.keys())
    return Report(len(faults), outcomes, findings, time.monotonic() - began, learned_s)


def draw_faults(faults: Sequence[Fault], count: int, rng: Random) -> list[Fault]:
    """Draw `count` faults in random order, with every kind at least once if there is room."""
    if count <= len(faults):
        return rng.sample(faults, count)
    drawn = [*faults, *rng.choices(faults, k=count - len(faults))]
    rng.shuffle(drawn)
    return drawn


def _carry_out(
    stack: ChaosStack,
    faults: Sequence[Fault],
    truth: Mapping[str, str],
    seed: int,
    announce: Callable[[str], None],
) -> list[Outcome]:
    """Let the faults happen one after the other; announce each outcome.

    Stops after a fault from which the stack does not recover.
    """
    outcomes: list[Outcome] = []
    for number, fault in enumerate(faults, start=1):
        rng = Random(f"{seed} {number}")
        time.sleep(rng.uniform(*REST_S))
        outcome = _let_happen(stack, fault, truth, rng)
        outcomes.append(outcome)
        announce(f"{number:>3}/{len(faults)}  {outcome.line()}")
        if not outcome.has_recovered:
            break
    return outcomes


def _let_happen(stack: ChaosStack, fault: Fault, truth: Mapping[str, str], rng: Random) -> Outcome:
    began = time.monotonic()
    try:
        heal = fault.strike(stack, rng)
    except FaultError as error:
        return Outcome(fault.name, 0.0, 0.0, None, None, "", left_out=str(error))
    try:
        time.sleep(rng.uniform(*fault.lasts_s))
    finally:
        _undo(stack, heal)
    lasted_s = time.monotonic() - began
    limit_s = fault.limit_s or stack.settings.reconcile_every_s + GRACE_S
    back_s = wait_until_back(stack)
    if back_s is None:
        return Outcome(fault.name, lasted_s, limit_s, None, None, stack.missing())
    caught_up_s, lag = wait_until_caught_up(stack, truth.keys(), limit_s + GIVE_UP_S)
    return Outcome(fault.name, lasted_s, limit_s, back_s, caught_up_s, lag)


def _undo(stack: ChaosStack, heal: Heal) -> None:
    """Undo a fault; if that fails, wait until all services are back, and try once more."""
    try:
        heal()
    except (TightloopError, httpx.HTTPError, CalledProcessError):
        wait_until_back(stack)
        heal()
