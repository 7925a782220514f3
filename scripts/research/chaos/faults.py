"""List the kinds of faults."""

from __future__ import annotations

import signal
from contextlib import suppress
from random import Random

import psutil

from scripts.research.chaos.chaos_stack import ChaosStack
from scripts.research.chaos.fault import Fault, Heal

AT_ONCE, FREEZE_S = (0.0, 0.0), (4.0, 10.0)
LEASE_LIMIT_S = 120.0


def _kill(name: str, *, with_children: bool) -> Fault:
    def strike(stack: ChaosStack, _rng: Random) -> Heal:
        victims = stack.children(name) if with_children else []
        for process in (stack.process(name), *victims):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return lambda: None

    is_worker = name in ("trainer", "ranker")
    return Fault(
        f"kill -9 {name}" + (" and its children" if with_children else ""),
        strike,
        AT_ONCE,
        limit_s=LEASE_LIMIT_S if is_worker else None,
        waits_for_heartbeat=is_worker,
    )


def _freeze(name: str) -> Fault:
    def strike(stack: ChaosStack, _rng: Random) -> Heal:
        frozen = [stack.process(name), *stack.children(name)]
        for process in frozen:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP)

        def heal() -> None:
            for process in frozen:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)

        return heal

    return Fault(f"freeze {name}", strike, FREEZE_S)


PROGRAMS = ("postgres", "redis", "label-studio", "backend", "trainer", "ranker", "clock")
FAULTS = (
    *(_kill(name, with_children=name in ("backend", "trainer", "ranker")) for name in PROGRAMS),
    *(_freeze(name) for name in PROGRAMS),
)
