"""Mend tasks that Label Studio cannot list or open, to which it answers with an error 500.

    python -m scripts.mend_tasks
    python -m scripts.mend_tasks --delete

Removes impossible lead times, and keeps their annotations. --delete also deletes tasks that cannot
be listed at all, with their annotations.
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
    """Mend the tasks, and print what was done."""
    parser = CommandParser(description=__doc__)
    add_project_option(parser)
    parser.add_argument(
        "--delete", action="store_true", help="also delete tasks that cannot be listed at all"
    )
    arguments = parser.parse_args()
    settings = load_settings()
    settings.require("label_studio_api_key")
    project_id = pick_project(settings.model_dir, arguments.project)
    store = ProjectStore(project_root(settings.model_dir, project_id))
    project = open_project(settings, project_id)
    deleted = _delete_unlisted(project, store) if arguments.delete else []
    n_mended = _remove_impossible_times(project, store)
    print(f"{n_mended} impossible lead time{'' if n_mended == 1 else 's'} removed")
    if deleted:
        print(f"deleted: {', '.join(map(str, deleted))}")
    if left := store.facts().unlisted_tasks:
        print(f"cannot be listed: {', '.join(map(str, left))} (to delete them, add --delete)")
    return 0


def _delete_unlisted(project: LabelStudioProject, store: ProjectStore) -> list[int]:
    """Delete the tasks that cannot be listed; return their ids."""
    deleted: set[int] = set()
    while True:
        problem = None
        try:
            read_changes(project, store, is_full=True)
        except LabelStudioError as error:  # for example, because there are too many of these tasks
            problem = error
        unlisted = {*store.facts().unlisted_tasks} - deleted
        if not unlisted:
            if problem is not None:
                raise problem
            return sorted(deleted)
        for task_id in sorted(unlisted):
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
    """Remove impossible lead times; return the number of their annotations."""
    mended: set[int] = set()
    while True:
        read_changes(project, store, is_full=True)  # once some are mended, may find further ones
        times = {annotation_id for _, annotation_id in store.impossible_times()} - mended
        if not times:
            return len(mended)
        for annotation_id in times:
            project.remove_lead_time(annotation_id)
        mended |= times


if __name__ == "__main__":
    run(main)
