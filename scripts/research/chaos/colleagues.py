"""Do in Label Studio what colleagues may do without meaning harm."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import httpx

from backend.base.errors import LabelStudioError
from backend.labelstudio.project_connection import ProjectConnection, address_of
from backend.labelstudio.rows import prediction_result
from scripts.research.chaos.chaos_stack import ChaosStack
from scripts.research.chaos.fault import Fault, FaultError, Heal, nothing
from scripts.research.chaos.ledger import Entry

FOREIGN_TASKS = 200
MOMENT = (0.0, 1.0)
WHILE = (20.0, 40.0)  # long enough for the clock to read Label Studio


def _send(stack: ChaosStack, method: str, path: str, json: Any = None, **params: Any) -> Any:
    try:
        response = stack.label_studio.request(method, path, json=json, params=params)
        response.raise_for_status()
    except httpx.HTTPError as error:
        raise FaultError(f"Label Studio does not allow this now: {error!r}") from error
    return response.json() if response.content else None


def _connect_again(stack: ChaosStack) -> Heal:
    """Return a function that connects the project with the backend, as set-up does.

    The clock restores a connection only once a day, so later faults must be undone here.
    """

    def heal() -> None:
        settings = stack.settings
        connection = ProjectConnection(
            settings.label_studio_url,
            settings.label_studio_api_key.get_secret_value(),
            stack.project_id,
        )
        connection.connect(address_of(settings))

    return heal


def _delete_webhook(stack: ChaosStack, _: Random) -> Heal:
    for hook in _send(stack, "GET", "/api/webhooks/", project=stack.project_id):
        _send(stack, "DELETE", f"/api/webhooks/{hook['id']}/")
    return _connect_again(stack)


def _switch_webhook_off(stack: ChaosStack, _: Random) -> Heal:
    for hook in _send(stack, "GET", "/api/webhooks/", project=stack.project_id):
        changes = {"is_active": False, "url": hook["url"], "actions": hook["actions"]}
        _send(stack, "PATCH", f"/api/webhooks/{hook['id']}/", changes)
    return _connect_again(stack)


def _delete_backend(stack: ChaosStack, _: Random) -> Heal:
    for row in _send(stack, "GET", "/api/ml/", project=stack.project_id):
        _send(stack, "DELETE", f"/api/ml/{row['id']}")
    return _connect_again(stack)


def _change_project(**changes: Any) -> Callable[[ChaosStack, Random], Heal]:
    """Change fields of the project; change them back at the end, as a colleague would."""

    def strike(stack: ChaosStack, _: Random) -> Heal:
        path = f"/api/projects/{stack.project_id}/"
        before = _send(stack, "GET", path)
        _send(stack, "PATCH", path, changes)
        return lambda: _send(stack, "PATCH", path, {name: before[name] for name in changes})

    return strike


def _import_foreign_tasks(stack: ChaosStack, _: Random) -> Heal:
    """Import tasks without an image id, which Tightloop did not create."""
    [source] = _send(
        stack, "GET", "/api/tasks/", project=stack.project_id, page_size=1, fields="all"
    )["tasks"]
    tasks = [{"data": {"image": source["data"]["image"], "batch": "foreign"}}] * FOREIGN_TASKS
    made = _send(stack, "POST", f"/api/projects/{stack.project_id}/import", tasks,
                 return_task_ids=True)["task_ids"]  # fmt: skip

    def delete_them() -> None:
        stack.ledger.expect_deleted(
            i for i, entry in stack.ledger.entries().items() if entry.task_id in set(made)
        )
        stack.project.delete_tasks(made)

    return delete_them


def _make_lead_time_impossible(lead_time: str) -> Callable[[ChaosStack, Random], Heal]:
    """Give an annotation a lead time with which Label Studio can no longer list its task."""

    def strike(stack: ChaosStack, rng: Random) -> Heal:
        entry = _choose(stack, rng)
        if entry is None:
            return nothing
        path = f"/api/annotations/{entry.annotation_id}/"
        # Label Studio saves the largest of these numbers as infinity, although it answers 500.
        stack.label_studio.patch(
            path,
            content=f'{{"lead_time": {lead_time}}}',
            headers={"Content-Type": "application/json"},
        )
        return lambda: _send(stack, "PATCH", path, {"lead_time": 1.0})

    return strike


def _make_task_unreadable(stack: ChaosStack, rng: Random) -> Heal:
    """Replace the data of a labeled task with a list, which Label Studio saves but cannot read."""
    entry = _choose(stack, rng)
    if entry is None:
        return nothing
    of_task = [i for i, e in stack.ledger.entries().items() if e.task_id == entry.task_id]
    stack.ledger.expect_deleted(of_task)
    stack.label_studio.patch(f"/api/tasks/{entry.task_id}/", json={"data": [1]})

    def delete_it() -> None:
        try:
            stack.project.delete_tasks([entry.task_id])
        except LabelStudioError as error:  # Label Studio deletes the task, and then fails
            if error.status != 500:
                raise

    return delete_it


def _delete_task(stack: ChaosStack, rng: Random) -> Heal:
    entry = _choose(stack, rng)
    if entry is not None:
        of_task = [i for i, e in stack.ledger.entries().items() if e.task_id == entry.task_id]
        stack.ledger.expect_deleted(of_task)
        stack.project.delete_tasks([entry.task_id])
    return nothing


def _delete_annotation(stack: ChaosStack, rng: Random) -> Heal:
    entry = _choose(stack, rng)
    if entry is not None:
        stack.ledger.expect_deleted([entry.annotation_id])
        stack.project.delete_annotation(entry.annotation_id)
    return nothing


def _edit_annotation(stack: ChaosStack, rng: Random) -> Heal:
    """Change the label of an annotation as the admin."""
    entry = _choose(stack, rng)
    if entry is not None:
        config = stack.project.label_config()
        label = rng.choice([choice for choice in config.choices if choice not in entry.labels])
        changes = {"result": prediction_result(config, label)}
        try:
            _send(stack, "PATCH", f"/api/annotations/{entry.annotation_id}/", changes)
        except FaultError:
            stack.ledger.record_edit(entry.annotation_id, label, is_clear=False)
            raise
        stack.ledger.record_edit(entry.annotation_id, label)
    return nothing


def _choose(stack: ChaosStack, rng: Random) -> Entry | None:
    """Choose an annotation that has a label; return None if none exists yet."""
    labeled = [
        entry
        for entry in stack.ledger.entries().values()
        if not entry.may_be_deleted and len(entry.labels) == 1 and entry.labels[0] is not None
    ]
    return rng.choice(labeled) if labeled else None


COLLEAGUES_ACTS = (
    Fault("the webhook deleted", _delete_webhook, WHILE),
    Fault("the webhook switched off", _switch_webhook_off, WHILE),
    Fault("the ML backend deleted", _delete_backend, WHILE),
    Fault("sampling changed, and back", _change_project(sampling="Sequential sampling"), WHILE),
    Fault("predictions hidden, and shown", _change_project(show_collab_predictions=False), WHILE),
    Fault("an annotation with a lead time of 1e308", _make_lead_time_impossible("1e308"), WHILE),
    Fault("an annotation with a lead time of 1e309", _make_lead_time_impossible("1e309"), WHILE),
    Fault("a task whose data is a list", _make_task_unreadable, WHILE),
    Fault("200 foreign open tasks", _import_foreign_tasks, WHILE),
    Fault("a task deleted", _delete_task, MOMENT),
    Fault("an annotation deleted", _delete_annotation, MOMENT),
    Fault("an annotation edited", _edit_annotation, MOMENT),
)
