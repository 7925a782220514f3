"""Repair tasks that Label Studio cannot list or open because it answers 500.

    python -m scripts.repair_tasks
    python -m scripts.repair_tasks --delete

Removes impossible lead times, but keeps the annotations. --delete also deletes tasks that Label
Studio cannot list at all, with their annotations.
"""

from __future__ import annotations

from backend.base.command_line import CommandParser, run
from backend.base.errors import LabelStudioError
from backend.base.settings import load_settings
from backend.labelstudio.attached_project import open_project
from backend.labelstudio.project import LabelStudioProject
from backend.rounds.observe import read_changes
from backend.store.project_record import pick_project, project_root
from backend.store.project_store import ProjectStore
from scripts.console.options import add_project_option


def main() -> int:
    """Repair the tasks, and print what was done."""
    parser = CommandParser(description=__doc__)
    add_project_option(parser)
    parser.add_argument(
        "--delete", action="store_true", help="also delete tasks that Label Studio cannot list"
    )
    arguments = parser.parse_args()
    settings = load_settings()
    settings.require("label_studio_api_key")
    project_id = pick_project(settings.model_dir, arguments.project)
    store = ProjectStore(project_root(settings.model_dir, project_id))
    project = open_project(settings, project_id)
    deleted = _delete_unlisted(project, store) if arguments.delete else []
    n_removed = _remove_impossible_times(project, store)
    print(f"{n_removed} impossible lead time{'' if n_removed == 1 else 's'} removed")
    if deleted:
        print(f"deleted tasks: {', '.join(map(str, deleted))}")
    if left := store.facts().unlisted_tasks:
        ids = ", ".join(map(str, left))
        print(f"tasks that cannot be listed: {ids} (to delete them, add --delete)")
    return 0


def _delete_unlisted(project: LabelStudioProject, store: ProjectStore) -> list[int]:
    """Delete the tasks that cannot be listed; return their ids."""
    deleted: set[int] = set()
    while True:
        problem = None
        try:
            read_changes(project, store, is_full=True)
        except LabelStudioError as error:  # for example, because too many tasks cannot be listed
            problem = error
        unlisted = {*store.facts().unlisted_tasks}
        if unlisted <= deleted:
            if problem is not None:
                raise problem
            return sorted(deleted - unlisted)  # Label Studio may have kept some of them
        for task_id in sorted(unlisted - deleted):
            _delete(project, task_id)
        deleted |= unlisted


def _delete(project: LabelStudioProject, task_id: int) -> None:
    try:
        project.delete_tasks([task_id])
    except LabelStudioError as error:
        # Label Studio 1.23 removes such a task from its project, but then fails to update its
        # summary of the project.
        if error.status != 500:
            raise


def _remove_impossible_times(project: LabelStudioProject, store: ProjectStore) -> int:
    """Remove impossible lead times; return how many were removed."""
    repaired: set[int] = set()
    while True:
        read_changes(project, store, is_full=True)  # may find more once some are removed
        times = {annotation_id for _, annotation_id in store.impossible_times()} - repaired
        if not times:
            return len(repaired)
        for annotation_id in times:
            project.remove_lead_time(annotation_id)
        repaired |= times


if __name__ == "__main__":
    run(main)
