"""Train one network on several workers of a Ray cluster, by Ray Train.

Ray Train starts the workers, connects them by torch.distributed and keeps their checkpoints. If a
worker or node is lost, all workers start again from the last checkpoint. So does a driver that runs
again under the same name.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypedDict

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from backend.base.errors import ScaleError, TightloopError
from backend.network import resnet
from backend.network.team import Team
from backend.scale.nodes import Workers
from backend.store.place import Place
from backend.store.tensor_file import from_bytes, to_bytes

SAVE_EVERY_S = 60.0
LOOK_EVERY_S = 1.0
LOST_MAX = 5  # workers or nodes in one run
CHECKPOINT, RESULT = "checkpoint.safetensors", "result.safetensors"
GO_ON, SAVE, STOP = 0.0, 1.0, 2.0


class Desk:
    """An actor through which workers report their progress and the driver asks them to stop."""

    def __init__(self) -> None:
        self._progress, self._must_stop = (0.0, 0.0), False

    def report(self, done: float, total: float) -> bool:
        """Take the workers' progress; return whether they must stop."""
        self._progress = done, total
        return self._must_stop

    def progress(self) -> tuple[float, float]:
        """Return the last progress."""
        return self._progress

    def stop(self) -> None:
        """Ask the workers to save their work and stop."""
        self._must_stop = True


class Member:
    """A worker of a team, as the function that trains sees it."""

    def __init__(self, desk: Any, threads: int) -> None:
        torch.set_num_threads(threads)
        context = ray.train.get_context()
        self.team = Team(context.get_world_rank(), context.get_world_size())
        self.device: torch.device = get_device()
        self._desk = desk
        self._looked_at = self._saved_at = time.monotonic()

    def checkpoint(self) -> resnet.State | None:
        """Return the state from which training must go on, or None if it begins."""
        if (kept := ray.train.get_checkpoint()) is None:
            return None
        with kept.as_directory() as folder:
            content = (Path(folder) / CHECKPOINT).read_bytes()
        return {name: torch.from_numpy(array) for name, array in from_bytes(content).items()}

    def may_go_on(self, done: float, total: float, state: Callable[[], resnet.State]) -> bool:
        """Report progress after a step, and save the state each minute.

        Returns False, in all workers at once, if the driver wants them to stop; the state is then
        saved.
        """
        order = self.team.agree(self._decide(done, total) if self.team.rank == 0 else GO_ON)
        if order in (SAVE, STOP):
            self._save(state)
        return order != STOP

    def _decide(self, done: float, total: float) -> float:
        now = time.monotonic()
        if now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            if ray.get(self._desk.report.remote(done, total)):
                return STOP
        if now - self._saved_at >= SAVE_EVERY_S:
            self._saved_at = now
            return SAVE
        return GO_ON

    def _save(self, state: Callable[[], resnet.State]) -> None:
        if self.team.rank:
            ray.train.report({})  # all workers must call it
            return
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / CHECKPOINT).write_bytes(_to_bytes(state()))
            ray.train.report({}, Checkpoint.from_directory(folder))


class _Options(TypedDict):
    function: Callable[[Member, Any], resnet.State]
    work: Any
    desk: Any
    threads: int
    place: Place


def run_team(
    function: Callable[[Member, Any], resnet.State],
    work: object,
    place: Place,
    name: str,
    workers: Workers,
    on_progress: Callable[[float, float], bool],
) -> resnet.State:
    """Call `function(member, work)` in each worker, and return what the first one returns.

    Checkpoints are kept in the folder `name` below `place` until the run succeeds. `on_progress`
    is called about once a second; if it returns False, the workers are asked to stop. The process
    must be connected to a cluster. Raises ScaleError if too many workers are lost, and the error
    of `function` if that is a TightloopError.
    """
    # On this machine: the workers go on if another one is lost.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    desk = ray.remote(num_cpus=0, scheduling_strategy=here)(Desk).remote()
    options = _Options(
        function=function,
        work=work,
        desk=desk,
        threads=max(1, workers.cpus_each),
        place=place.below(name),
    )
    trainer = TorchTrainer(
        _run_member,
        train_loop_config=dict(options),
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if workers.gpus_each else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=(1, workers.count),  # fewer go on if a node is lost
            use_gpu=bool(workers.gpus_each),
            resources_per_worker={"CPU": workers.cpus_each, "GPU": workers.gpus_each},
        ),
        run_config=RunConfig(
            name=name,
            storage_path=place.address,
            failure_config=FailureConfig(max_failures=LOST_MAX),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(trainer.fit)
        _watch(running, desk, on_progress)
        try:
            running.result()
        except Exception as error:
            found = _explain(error)
            if not isinstance(found, ScaleError):
                place.delete(name)  # from the same checkpoint, the same would happen again
            raise found from error
    result = from_bytes(place.below(name).read(RESULT))
    place.delete(name)
    return {key: torch.from_numpy(array) for key, array in result.items()}


def _run_member(options: _Options) -> None:
    member = Member(options["desk"], options["threads"])
    result = options["function"](member, options["work"])
    if member.team.rank == 0:
        options["place"].write(RESULT, _to_bytes(result))


def _watch(running: Future[Any], desk: Any, on_progress: Callable[[float, float], bool]) -> None:
    """Report progress until the workers are done; let them stop if that fails, for example because
    the project has been detached.
    """
    try:
        while not running.done():
            wait([running], LOOK_EVERY_S)
            if not on_progress(*ray.get(desk.progress.remote())):
                ray.get(desk.stop.remote())
    except BaseException:
        ray.get(desk.stop.remote())
        raise


def _explain(error: BaseException) -> TightloopError:
    """Return the error that a worker raised, or a sentence about the workers that were lost."""
    failures = list(getattr(error, "worker_failures", {}).values())
    for failure in [*failures, error]:
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(found := getattr(cause, "cause", cause), TightloopError):
                return found
            cause = cause.__cause__
    reason = str(failures[0] if failures else error).strip().splitlines()[-1:]
    return ScaleError(
        f"training on the Ray cluster failed ({''.join(reason)}): look at the logs of its nodes"
    )


def _to_bytes(state: resnet.State) -> bytes:
    return to_bytes({name: tensor.cpu().numpy() for name, tensor in state.items()})
