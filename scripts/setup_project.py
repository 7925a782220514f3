"""Set up a project in Label Studio: tasks, ML backend, webhook, and the first training run.

    python -m scripts.setup_project
    python -m scripts.setup_project --label-config my.xml
    python -m scripts.setup_project --title Birds --pool /birds --classes sparrow,robin
    python -m scripts.setup_project --title Birds --rename sparrow="house sparrow"
    python -m scripts.setup_project --attach 12
    python -m scripts.setup_project --detach 12
    python -m scripts.setup_project --forget 5

Label Studio, Redis and the backend must be running. Without a title, the command updates
all projects, beginning with the one that was set up first. Running it again changes nothing.

--attach attaches Tightloop to an existing Label Studio project, and uses its tasks and annotations.
The command prints what it will change, and asks before it changes anything. --detach restores the
project's settings, and keeps the annotations. --forget takes a project that was deleted in Label
Studio out of the list of projects, and keeps its files.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from contextlib import redirect_stdout
from pathlib import Path

from backend.base.command_line import CommandParser, run
from backend.base.errors import TightloopError
from backend.base.project_settings import ATTACHED
from backend.labelstudio.client import label_now_url
from backend.store.project_record import project_root, read_record
from scripts.setup.attach import attach, refresh
from scripts.setup.consent import Consent
from scripts.setup.detach import detach
from scripts.setup.forget import forget
from scripts.setup.projects import find_record, project_links
from scripts.setup.rename import rename
from scripts.setup.request import Request
from scripts.setup.steps import set_up

OPTIONS = (
    "project_title",
    "pool",
    "classes",
    "seed_labels",
    "validation",
    "validation_labels",
    "label_config",
)


def main() -> int:
    """Set up the project and print what was done."""
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.dry_run and {arguments.attach, arguments.detach, arguments.forget} == {None}:
        parser.error("--dry-run needs --attach, --detach or --forget")
    options = {name: getattr(arguments, name) for name in OPTIONS}
    request = Request.from_options(
        {name: value for name, value in options.items() if value is not None},
        may_change=arguments.change,
    )
    with redirect_stdout(sys.stderr if arguments.json else sys.stdout):
        if arguments.rename:
            project_id = rename(request.settings, request.title, arguments.rename)
        elif arguments.detach is not None:
            project_id = detach(request.settings, arguments.detach, is_dry_run=arguments.dry_run)
        elif arguments.forget is not None:
            project_id = forget(request.settings, arguments.forget, _consent(arguments))
        elif arguments.attach is not None:
            project_id = attach(request.settings, arguments.attach, _consent(arguments))
        else:
            project_id = _set_up(request)
            if arguments.project_title is None:
                _refresh_others(request, project_id)
    if arguments.json:
        settings = request.settings
        report = {
            "project_id": project_id,
            "project_url": label_now_url(settings.browser_url, project_id),
            "projects": project_links(settings.model_dir, settings.browser_url),
        }
        print(json.dumps(report, indent=2))
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(description=__doc__)
    parser.add_argument(
        "--title",
        dest="project_title",
        metavar="TITLE",
        help="the project's title, if there are several projects",
    )
    parser.add_argument("--pool", help="the images of a new project: see the setting POOL")
    parser.add_argument(
        "--classes",
        metavar="A,B",
        help="the classes that annotators choose from, separated by commas",
    )
    parser.add_argument(
        "--seed-labels", metavar="N", help="how many images start with their known labels"
    )
    parser.add_argument("--validation", help="who labels the validation images: see VALIDATION")
    parser.add_argument(
        "--validation-labels", metavar="N", help="how many images annotators label for validation"
    )
    parser.add_argument(
        "--label-config",
        type=Path,
        metavar="FILE",
        help="replace the project's label config with this file",
    )
    parser.add_argument(
        "--change", action="store_true", help="let the given values replace the recorded ones"
    )
    parser.add_argument(
        "--rename",
        action="append",
        metavar="OLD=NEW",
        help="let the annotations of a class that was renamed in Label Studio count for its new "
        "name; may be repeated",
    )
    _add_attach_options(parser)
    parser.add_argument("--json", action="store_true", help="print ids and addresses as JSON")
    return parser


def _add_attach_options(parser: CommandParser) -> None:
    existing = parser.add_argument_group("an existing Label Studio project")
    which = existing.add_mutually_exclusive_group()
    which.add_argument(
        "--attach",
        metavar="ID|TITLE",
        help="show what will change in the project, ask, and attach Tightloop to it",
    )
    which.add_argument(
        "--detach",
        nargs="?",
        const="",
        metavar="ID|TITLE",
        help="restore the project as it was, but keep its annotations",
    )
    which.add_argument(
        "--forget",
        type=int,
        metavar="ID",
        help="no longer list a project that was deleted in Label Studio, but keep its files",
    )
    existing.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    existing.add_argument(
        "--dry-run", action="store_true", help="show what would change, and change nothing"
    )


def _consent(arguments: Namespace) -> Consent:
    return "dry run" if arguments.dry_run else "given" if arguments.yes else "ask"


def _set_up(request: Request) -> int:
    """Set up the requested project, or attach to it, as the settings say; return its id."""
    settings = request.settings
    if request.value("pool") == ATTACHED:
        project_id = request.existing_project()
        record = read_record(project_root(settings.model_dir, project_id))
        if record is None or not record.is_attached:
            return attach(settings, str(project_id), "given")
    else:
        record = find_record(settings.model_dir, request.title)
    if record is not None and record.is_attached:
        refresh(settings, record)
        return record.project_id
    return set_up(request)


def _refresh_others(request: Request, project_id: int) -> None:
    """Update the other recorded projects, for example if the backend's port has changed.

    An error in one project does not stop the others.
    """
    settings = request.settings
    for link in project_links(settings.model_dir, settings.browser_url):
        if link["project_id"] != project_id:
            try:
                _set_up(Request.to_refresh(settings, link["title"]))
            except TightloopError as error:
                print(f'project   "{link["title"]}" was left unchanged: {error}')


if __name__ == "__main__":
    run(main)
