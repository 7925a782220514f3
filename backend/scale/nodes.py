"""List the nodes of the connected Ray cluster, and check that they match this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import ray
from ray import cloudpickle
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from backend.base.errors import DeviceError, ScaleError
from backend.scale import self_report

# A node needs a second or two to start a process for the first task; a busy one needs longer.
ANSWER_TIMEOUT_S = 120.0
DEATH_NOTICE_S = 30.0


@dataclass(frozen=True)
class Node:
    """A machine of the cluster."""

    id: str
    name: str  # for messages
    cpus: int
    gpus: int


@dataclass(frozen=True)
class Workers:
    """How many processes share a step, and what each of them reserves."""

    count: int
    cpus_each: int
    gpus_each: int


def alive_nodes() -> tuple[Node, ...]:
    """Return the nodes that are alive, also those that offer nothing."""
    return tuple(
        Node(
            found["NodeID"],
            f"{found['NodeManagerHostname']} ({found['NodeManagerAddress']})",
            int(found["Resources"].get("CPU", 0)),
            int(found["Resources"].get("GPU", 0)),
        )
        for found in ray.nodes()
        if found["Alive"]
    )


def scoring_workers(nodes: Sequence[Node], device: Literal["auto", "cpu", "cuda"]) -> Workers:
    """Return one worker per GPU, or one per CPU if there is no GPU or `device` is cpu.

    Raises DeviceError if `device` is cuda and no node has a GPU, and ScaleError if no node offers
    a CPU either.
    """
    with_gpus = [node for node in nodes if node.gpus]
    if with_gpus and device != "cpu":
        cpus_each = min(node.cpus // node.gpus for node in with_gpus)
        return Workers(sum(node.gpus for node in with_gpus), cpus_each, 1)
    if device == "cuda":
        raise DeviceError(
            "DEVICE=cuda, but no node of the Ray cluster has a GPU: set DEVICE=auto or DEVICE=cpu"
        )
    if not (cpus := sum(node.cpus for node in nodes)):
        raise ScaleError(
            "no node of the Ray cluster offers a CPU: run `ray start --address=…` on the machines "
            "that are to work"
        )
    return Workers(cpus, 1, 0)


def training_workers(
    nodes: Sequence[Node], device: Literal["auto", "cpu", "cuda"], most: int
) -> Workers:
    """Return at most `most` workers: one per GPU, or one per node if there is no GPU.

    Raises the errors of `scoring_workers`.
    """
    scoring = scoring_workers(nodes, device)
    if scoring.gpus_each:
        return Workers(max(1, min(scoring.count, most)), scoring.cpus_each, scoring.gpus_each)
    with_cpus = [node for node in nodes if node.cpus]
    return Workers(max(1, min(len(with_cpus), most)), min(node.cpus for node in with_cpus), 0)


def matching_nodes() -> tuple[Node, ...]:
    """Return the nodes that are alive, after each has run a small task that tells its versions.

    A node that dies meanwhile is left out. Raises ScaleError, with a sentence for each node that
    runs another version of the code, torch or Python, or that does not answer.
    """
    nodes = alive_nodes()
    answers = _ask(nodes)
    if wrong := [line for node, found in answers.items() for line in _differences(node, found)]:
        raise ScaleError("\n".join(wrong))
    return tuple(answers)


def _ask(nodes: Sequence[Node]) -> Mapping[Node, Mapping[str, str]]:
    """Return the versions on each node that is still alive."""
    cloudpickle.register_pickle_by_value(self_report)
    try:
        task = ray.remote(num_cpus=0, max_retries=0)(self_report.versions)
        refs = {
            node: task.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)
            ).remote()
            for node in nodes
        }
    finally:
        cloudpickle.unregister_pickle_by_value(self_report)
    give_up = time.monotonic() + ANSWER_TIMEOUT_S
    answers = {}
    for node, ref in refs.items():
        try:
            answers[node] = ray.get(ref, timeout=max(0.0, give_up - time.monotonic()))
        except GetTimeoutError:
            raise ScaleError(
                f"the Ray node {node.name} did not answer within {ANSWER_TIMEOUT_S:g} s: look at "
                "its logs, or take it out of the cluster with `ray stop` there"
            ) from None
        except RayError as error:
            if isinstance(error, RayTaskError) or not _is_dead(node):
                raise ScaleError(f"the Ray node {node.name} cannot run a task: {error}") from error
    return answers


def _differences(node: Node, found: Mapping[str, str]) -> list[str]:
    return [
        f"the Ray node {node.name} runs {what} {found[what]}, and this machine {own}: use the same "
        "image, or the same files and ray.lock, on both, and start Ray there again"
        if found[what]
        else f"the Ray node {node.name} cannot import {what}: start Ray there from Tightloop's "
        "image, or with the packages of ray.lock and PYTHONPATH=<Tightloop's folder>"
        for what, own in self_report.versions().items()
        if found[what] != own
    ]


def _is_dead(node: Node) -> bool:
    """Return whether a node has died; Ray may notice it later than the failure of a task."""
    give_up = time.monotonic() + DEATH_NOTICE_S
    while node.id in {alive.id for alive in alive_nodes()}:
        if time.monotonic() >= give_up:
            return False
        time.sleep(0.5)
    return True
