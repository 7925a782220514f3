"""The project that a command is about: its --project and the settings in, the opened loop out."""

from __future__ import annotations

from argparse import ArgumentParser

from backend.base.progress import Progress
from backend.base.settings import Settings
from backend.labelstudio.project import LabelStudioProject
from backend.rounds.loop import Loop, open_loop
from backend.store import registry


def add_project_option(parser: ArgumentParser) -> None:
    """Let people say which project they mean."""
    parser.add_argument(
        "--project", type=int, help="Label Studio's project id, if there are several"
    )


def open_chosen(
    settings: Settings, asked: int | None, progress: Progress, *, rescan: bool = False
) -> tuple[LabelStudioProject, Loop]:
    """The project and its loop; with `rescan` the pool is looked through for new files."""
    settings.require("label_studio_api_key")
    project_id = registry.pick_project(settings.model_dir, asked)
    project = LabelStudioProject(
        settings.label_studio_url, settings.label_studio_api_key.get_secret_value(), project_id
    )
    return project, open_loop(settings, project_id, project, rescan=rescan, progress=progress)
