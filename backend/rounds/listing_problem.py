"""Explain which tasks Label Studio cannot list or open, and how to repair them."""

from __future__ import annotations

from collections.abc import Sequence

from backend.store.project_store import ProjectStore

COMMAND = "python -m scripts.repair_tasks --project {project_id}"


def listing_notices(store: ProjectStore, project_id: int) -> list[str]:
    """Return the notices about impossible lead times and about tasks that cannot be listed."""
    command = COMMAND.format(project_id=project_id)
    notices = []
    if times := store.impossible_times():
        task_ids = sorted({task_id for task_id, _ in times})
        notices.append(
            f"Label Studio cannot open {_name(task_ids)} (it answers 500), because of "
            f"impossible lead times, for example of annotation {times[0][1]}. The annotations "
            f"count nevertheless. To remove the lead times and keep the annotations, run "
            f"`{command}`."
        )
    if unlisted := store.facts().unlisted_tasks:
        notices.append(
            f"Label Studio cannot list {_name(unlisted)} (it answers 500). Tightloop no longer "
            "reads what cannot be listed, and the Data Manager fails on the same page. To delete "
            f"what cannot be listed, run `{command} --delete`."
        )
    return notices


def _name(task_ids: Sequence[int]) -> str:
    others = len(task_ids) - 1
    if not others:
        return f"task {task_ids[0]}"
    return f"task {task_ids[0]} and {others} other task{'s' if others > 1 else ''}"
