"""Mend tasks that Label Studio cannot list or open, to which it answers with an error 500.

    python -m scripts.mend_tasks
    python -m scripts.mend_tasks --delete

Removes impossible lead times, and keeps their annotations. --delete also deletes tasks that cannot
be listed at all, with their annotations.
"""

from __future__ import annotations

from backend.base.command_line import CommandParser, run
from backend.base.settings import load_settings
from backend.labelstudio.attached_project import open_project
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
    read_changes(project, store, is_full=True)
    mended: set[int] = set()
    while times := {annotation_id for _, annotation_id in store.impossible_times()} - mended:
        for annotation_id in times:
            project.remove_lead_time(annotation_id)
        mended |= times
        read_changes(project, store, is_full=True)  # may find further ones
    print(f"{len(mended)} impossible lead time{'' if len(mended) == 1 else 's'} removed")
    unlisted = store.facts().unlisted_tasks
    if unlisted and arguments.delete:
        project.delete_tasks(unlisted)
        read_changes(project, store, is_full=True)
    if unlisted:
        ids = ", ".join(map(str, unlisted))
        print(f"deleted: {ids}" if arguments.delete else f"cannot be listed: {ids} (see --delete)")
    return 0


if __name__ == "__main__":
    run(main)
