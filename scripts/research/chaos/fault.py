"""Define what a fault is: something that breaks a stack and can be undone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from backend.base.errors import TightloopError
from scripts.research.chaos.chaos_stack import ChaosStack

# Undoes a fault. It may be called twice, and is also called if the run is interrupted.
Heal = Callable[[], None]


def nothing() -> None:
    """Do nothing: the stack must recover from the fault without help."""


class FaultError(TightloopError):
    """A fault cannot happen on this machine, or not now."""


@dataclass(frozen=True)
class Fault:
    """A kind of fault. `strike` may raise FaultError."""

    name: str  # what happens, for example "kill -9 the trainer and its child"
    strike: Callable[[ChaosStack, Random], Heal]
    lasts_s: tuple[float, float]  # the shortest and the longest time until the fault is healed
    limit_s: float | None = None  # the time to catch up; None = RECONCILE_EVERY + 30 s
    waits_for_heartbeat: bool = False  # whether a lease in Redis must expire before work goes on
