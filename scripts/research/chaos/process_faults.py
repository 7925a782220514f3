"""Kill and freeze the processes of a stack."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random

import psutil

from backend.queue.training_queue import TrainingQueue
from scripts.local.folder import StackFolder
from scripts.local.processes import processes
from scripts.local.programs import BIN
from scripts.research.chaos.chaos_stack import ChaosStack
from scripts.research.chaos.fault import Fault, Heal, nothing

# RQ gives the job of a dead worker to another worker only after a lease of 65 s has expired.
KILLED_WITH_JOB_S = 120.0
TRAINS_WITHIN_S = 60.0
MOMENT = (0.0, 1.0)
WHILE = (5.0, 20.0)
LONGER_THAN_LEASE = (80.0, 90.0)
Choose = Callable[[ChaosStack, Random], Sequence[psutil.Process]]


def _kill(choose: Choose) -> Callable[[ChaosStack, Random], Heal]:
    def strike(stack: ChaosStack, rng: Random) -> Heal:
        for process in choose(stack, rng):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return nothing

    return strike


def _freeze(choose: Choose) -> Callable[[ChaosStack, Random], Heal]:
    def strike(stack: ChaosStack, rng: Random) -> Heal:
        frozen = choose(stack, rng)
        for process in frozen:
            with suppress(psutil.NoSuchProcess):
                process.suspend()

        def thaw() -> None:
            for process in frozen:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

        return thaw

    return strike


def _main(name: str) -> Choose:
    """Choose the process that supervisord started."""
    return lambda stack, _: [stack.process(name)]


def _whole(name: str) -> Choose:
    """Choose a program's process and all its descendants."""
    return lambda stack, _: [stack.process(name), *stack.children(name)]


def _one_child(name: str) -> Choose:
    """Choose one of the processes that a program has started."""

    def choose(stack: ChaosStack, rng: Random) -> Sequence[psutil.Process]:
        children = stack.children(name)
        return [rng.choice(children)] if children else []

    return choose


def _in_training(choose: Choose) -> Choose:
    """Wait until a training run has begun, and then choose."""

    def choose_in_training(stack: ChaosStack, rng: Random) -> Sequence[psutil.Process]:
        if not stack.children("trainer"):
            TrainingQueue(stack.info["redis_url"]).ask_for_training(stack.project_id, time.time())
        give_up = time.monotonic() + TRAINS_WITHIN_S
        while not stack.children("trainer") and time.monotonic() < give_up:
            time.sleep(0.2)
        time.sleep(rng.uniform(0.0, 5.0))
        return choose(stack, rng)

    return choose_in_training


def _own(stack: ChaosStack, _: Random) -> Sequence[psutil.Process]:
    """Choose all processes that run Tightloop's code."""
    names = ("backend", "trainer", "ranker", "clock")
    return [process for name in names for process in _whole(name)(stack, Random(0))]


def _power_cut(stack: ChaosStack, _: Random) -> Heal:
    """Kill every process of the stack at once; start it again as a person would."""
    for process in processes(StackFolder(stack.var)):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return stack.up


def _kill_supervisor(stack: ChaosStack, _: Random) -> Heal:
    stack.process("supervisord").kill()
    return stack.up


def _restart(name: str) -> Callable[[ChaosStack, Random], Heal]:
    def strike(stack: ChaosStack, _: Random) -> Heal:
        stack.supervise("restart", name)
        return nothing

    return strike


def _stop(name: str) -> Callable[[ChaosStack, Random], Heal]:
    def strike(stack: ChaosStack, _: Random) -> Heal:
        stack.supervise("stop", name)
        return lambda: stack.supervise("start", name)

    return strike


def _flush_redis(stack: ChaosStack, _: Random) -> Heal:
    """Empty the Redis of this stack, which has its own port and password."""
    url = stack.info["redis_url"]
    subprocess.run([BIN / "redis-cli", "-u", url, "--no-auth-warning", "flushall"],
                   check=False, capture_output=True)  # fmt: skip
    return nothing


PROCESS_FAULTS = (
    Fault("kill -9 the backend", _kill(_main("backend")), MOMENT),
    Fault("kill -9 the backend and its workers", _kill(_whole("backend")), MOMENT),
    Fault("kill -9 one worker of the backend", _kill(_one_child("backend")), MOMENT),
    Fault(
        "kill -9 the trainer in a training run", _kill(_in_training(_main("trainer"))), MOMENT,
        limit_s=KILLED_WITH_JOB_S, waits_for_heartbeat=True,
    ),
    Fault("kill -9 the child that trains", _kill(_in_training(_one_child("trainer"))), MOMENT),
    Fault(
        "kill -9 the trainer and its child", _kill(_in_training(_whole("trainer"))), MOMENT,
        limit_s=KILLED_WITH_JOB_S, waits_for_heartbeat=True,
    ),
    Fault(
        "kill -9 the ranker and its child", _kill(_whole("ranker")), MOMENT,
        limit_s=KILLED_WITH_JOB_S, waits_for_heartbeat=True,
    ),
    Fault("kill -9 the ranker's child", _kill(_one_child("ranker")), MOMENT),
    Fault("kill -9 the clock", _kill(_main("clock")), MOMENT),
    Fault(
        "kill -9 all of Tightloop", _kill(_own), MOMENT,
        limit_s=KILLED_WITH_JOB_S, waits_for_heartbeat=True,
    ),
    Fault("kill -9 Redis", _kill(_main("redis")), MOMENT),
    Fault("kill -9 PostgreSQL's postmaster", _kill(_main("postgres")), MOMENT),
    Fault("kill -9 one session of PostgreSQL", _kill(_one_child("postgres")), MOMENT),
    Fault("kill -9 Label Studio", _kill(_whole("label-studio")), MOMENT),
    Fault(
        "kill -9 supervisord, then `make up`", _kill_supervisor, WHILE,
        limit_s=KILLED_WITH_JOB_S, waits_for_heartbeat=True,
    ),
    Fault(
        "kill -9 everything, then `make up`", _power_cut, WHILE,
        limit_s=KILLED_WITH_JOB_S, waits_for_heartbeat=True,
    ),
    Fault("freeze the backend", _freeze(_whole("backend")), WHILE),
    Fault("freeze one worker of the backend", _freeze(_one_child("backend")), WHILE),
    Fault("freeze the trainer", _freeze(_main("trainer")), WHILE),
    Fault("freeze the child that trains", _freeze(_in_training(_one_child("trainer"))), WHILE),
    Fault(
        "freeze the trainer and its child past their lease",
        _freeze(_in_training(_whole("trainer"))), LONGER_THAN_LEASE,
        limit_s=KILLED_WITH_JOB_S, waits_for_heartbeat=True,
    ),
    Fault("freeze the ranker and its child", _freeze(_whole("ranker")), WHILE),
    Fault("freeze the clock", _freeze(_main("clock")), WHILE),
    Fault("freeze Redis", _freeze(_main("redis")), WHILE),
    Fault("freeze PostgreSQL", _freeze(_whole("postgres")), WHILE),
    Fault("freeze Label Studio", _freeze(_whole("label-studio")), WHILE),
    Fault("restart Label Studio", _restart("label-studio"), MOMENT),
    Fault("restart Redis", _restart("redis"), MOMENT),
    Fault("stop the backend for a minute: no webhook arrives", _stop("backend"), (60.0, 60.0)),
    Fault("flush Redis", _flush_redis, MOMENT),
)  # fmt: skip
