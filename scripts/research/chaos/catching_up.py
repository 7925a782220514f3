"""Wait until a stack has caught up with what people did."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping

from backend.base.errors import TightloopError
from scripts.research.chaos.chaos_stack import ChaosStack
from scripts.research.chaos.ledger import Entry

LOOK_EVERY_S = 0.5
BACK_WITHIN_S = 300.0
LEARNED_WITHIN_S = 600.0


def wait_until_back(stack: ChaosStack) -> float | None:
    """Wait until all services are back; return the seconds, or None after BACK_WITHIN_S."""
    began = time.monotonic()
    while stack.missing():
        if time.monotonic() - began > BACK_WITHIN_S:
            return None
        time.sleep(LOOK_EVERY_S)
    return time.monotonic() - began


def wait_until_caught_up(
    stack: ChaosStack, images: Collection[str], give_up_s: float
) -> tuple[float | None, str]:
    """Wait until `find_lag` finds nothing; return the seconds, and what took longest.

    If something is still left after `give_up_s` seconds, returns None and what is left.
    """
    began, due = time.monotonic(), stack.ledger.entries()
    last_lag = ""
    while lag := find_lag(stack, due, images):
        last_lag = lag
        if time.monotonic() - began > give_up_s:
            return None, lag
        time.sleep(LOOK_EVERY_S)
    return time.monotonic() - began, last_lag


def find_lag(stack: ChaosStack, due: Mapping[int, Entry], images: Collection[str]) -> str:
    """Return what the stack must still do, or "".

    Every annotation in `due` must be counted, the open tasks must have predictions of the version
    in service and be ordered by them, and training must run if it is due. People keep labeling
    meanwhile. `images` are the ids of Tightloop's images.
    """
    try:
        return _uncounted(stack, due) or _unordered(stack, images) or _untrained(stack)
    except TightloopError as error:
        return str(error)


def _uncounted(stack: ChaosStack, due: Mapping[int, Entry]) -> str:
    labels = {a.annotation_id: a.label for of in stack.store.annotations().values() for a in of}
    now = stack.ledger.entries()
    left = [
        annotation_id
        for annotation_id, entry in due.items()
        if not now[annotation_id].may_be_deleted
        and (
            annotation_id not in labels
            or labels[annotation_id] not in (*entry.labels, *now[annotation_id].labels)
        )
    ]
    return f"{len(left)} annotations are not counted, such as {left[0]}" if left else ""


def _unordered(stack: ChaosStack, images: Collection[str]) -> str:
    current = stack.registry.current()
    if current is None:
        return "no version is in service"
    version = current.version
    tasks = {task.task_id for task in stack.project.open_tasks() if task.image_id in images}
    if lacking := tasks - stack.project.predicted_by(version, tasks):
        return f"{len(lacking)} of {len(tasks)} open tasks lack predictions of {version}"
    if tasks and (by := stack.project.model_version()) != version:
        return f"tasks are ordered by {by!r} instead of {version}"
    return ""


def _untrained(stack: ChaosStack) -> str:
    n_new, retrain_after = stack.store.new_annotations()[0], stack.settings.retrain_after
    if n_new >= retrain_after and not stack.children("trainer"):
        return f"{n_new} annotations are new, and no training run has begun"
    return ""


def wait_until_learned(stack: ChaosStack, images: Collection[str]) -> float | None:
    """Wait until the stack has learned everything; return the seconds since the last annotation.

    Returns None if that takes longer than LEARNED_WITHIN_S.
    """
    began = time.monotonic()
    while stack.missing() or _is_learning(stack) or find_lag(stack, stack.ledger.entries(), images):
        if time.monotonic() - began > LEARNED_WITHIN_S:
            return None
        time.sleep(LOOK_EVERY_S)
    return time.monotonic() - stack.ledger.last_at


def _is_learning(stack: ChaosStack) -> bool:
    facts, n_new = stack.store.facts(), stack.store.new_annotations()[0]
    needs_head = stack.settings.train != "full" and facts.head_revision < facts.revision
    return not facts.read_at or bool(n_new) or needs_head or bool(stack.children("trainer"))
