"""Find out why the model's predictions do not order the tasks that annotators get."""

from __future__ import annotations

import logging

from backend.base.labeling import TaskOrder
from backend.store.project_record import ProjectRecord
from backend.store.project_store import ProjectStore
from backend.store.version_meta import VERSION_NAME

log = logging.getLogger(__name__)


def find_problem(order: TaskOrder, record: ProjectRecord, *, has_ordered: bool) -> str:
    """Return why the model's predictions do not order a project's tasks and what to do, or "".

    In a project that we created, the model version is switched back automatically. Therefore,
    another model version is a problem only in an attached project, where the team chose it.
    `has_ordered` states whether our predictions have ever ordered an attached project's tasks;
    until then, attaching is not complete.
    """
    if record.is_attached and not has_ordered:
        return ""
    command = "python -m scripts.setup_project"
    if record.is_attached:
        command += f" --attach {record.project_id}"
    if not order.is_by_confidence:
        return (
            "Annotators do not get the images that Tightloop asks for, because the project's task "
            "sampling in Label Studio is no longer “Uncertainty sampling”. To change it back, run "
            f"`{command}`."
        )
    if may_switch(order, is_attached=record.is_attached, has_ordered=has_ordered):
        return ""
    now = f"is now {order.model_version!r}."
    if not order.model_version:
        now = "was cleared. This happens if someone hides the predictions in Label Studio."
    return (
        "Annotators do not get the images that Tightloop asks for, because the project's model "
        f"version in Label Studio {now} To let Tightloop set the version again, run `{command}`."
    )


def may_switch(order: TaskOrder, *, is_attached: bool, has_ordered: bool) -> bool:
    """Return whether Tightloop may change the model version that orders the tasks.

    In an attached project, a version that the team chose after attaching is left alone.
    """
    is_ours = VERSION_NAME.fullmatch(order.model_version) is not None
    return not is_attached or (order.is_by_confidence and (is_ours or not has_ordered))


def record_order(store: ProjectStore, record: ProjectRecord, order: TaskOrder) -> None:
    """Record how Label Studio orders a project's tasks now, and log a new problem once.

    A refresh becomes due if the tasks are ordered by another of our versions than the one recorded,
    or if all predictions were deleted.
    """
    facts, counts = store.facts(), store.counts()
    problem = find_problem(order, record, has_ordered=facts.has_ordered)
    found = {"order_problem": problem, "annotations_per_task": order.annotations_per_task}
    # Without open tasks, there is nothing to order. Ignore an order that Label Studio reports
    # before we have ordered tasks for the first time.
    has_open = counts.open or counts.awaiting_second_opinion
    if facts.ordered_by and has_open and not (problem and record.is_attached):
        # Anyone can delete all predictions in Label Studio's Data Manager. Import them again.
        found["ordered_by"] = order.model_version if order.has_predictions else ""
    changed = {name: value for name, value in found.items() if value != getattr(facts, name)}
    if changed:
        store.record(**changed)
    if problem and problem != facts.order_problem:
        log.warning("project %d: %s", record.project_id, problem)
    elif facts.order_problem and not problem:
        log.info("project %d: the model's predictions order the tasks again", record.project_id)
