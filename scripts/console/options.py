"""The arguments that several commands share, and the project that these arguments select."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError

from backend.base.progress import Progress
from backend.base.settings import Settings
from backend.labelstudio.project import LabelStudioProject
from backend.rounds.loop import Loop, open_loop
from backend.store.project_record import pick_project


def add_project_option(parser: ArgumentParser) -> None:
    """Add --project to a command."""
    parser.add_argument(
        "--project", type=int, metavar="ID", help="Label Studio's project id, if there are several"
    )


def positive(text: str) -> int:
    """Parse an argument that must be a number of at least 1."""
    number = int(text)
    if number < 1:
        raise ArgumentTypeError("must be 1 or more")
    return number


def open_chosen(
    settings: Settings, chosen: int | None, progress: Progress, *, rescan: bool = False
) -> tuple[LabelStudioProject, Loop]:
    """Return the project and its loop; `rescan` looks for new files in the pool."""
    settings.require("label_studio_api_key")
    project_id = pick_project(settings.model_dir, chosen)
    project = LabelStudioProject(
        settings.label_studio_url, settings.label_studio_api_key.get_secret_value(), project_id
    )
    return project, open_loop(settings, project_id, project, rescan=rescan, progress=progress)
