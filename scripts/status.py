"""Print one sentence about every project, or the whole status as JSON.

    python -m scripts.status
    python -m scripts.status --json

The backend returns the same JSON at GET /status.
"""

from __future__ import annotations

import json
import sys

from backend.base.command_line import CommandParser, run
from backend.base.settings import load_settings
from backend.queue.training_queue import TrainingQueue
from backend.rounds.accuracy import estimate_sentence, outlook_sentence
from backend.rounds.annotation_use import use_sentence
from backend.rounds.finish_progress import finish_sentence
from backend.web.status import sentence, whole_status


def main() -> int:
    """Print the status."""
    parser = CommandParser(description=__doc__)
    parser.add_argument(
        "--json", action="store_true", help="print everything that GET /status returns"
    )
    arguments = parser.parse_args()
    settings = load_settings()
    status = whole_status(settings, TrainingQueue(settings.redis_url.get_secret_value()))
    if arguments.json:
        print(json.dumps(status.as_json(), indent=2))
        return 0
    for project in status.projects:
        print(sentence(project))
        if not project.is_gone:
            print(f"  {project.label_url}")
        if used := use_sentence(project.learned_annotations, project.unlearned_annotations):
            print(f"  {used}")
        adaptation = project.adaptation
        if not project.is_gone and (adaptation.state != "off" or adaptation.body):
            print(f"  {adaptation.sentence.replace('`', '')}")
        if project.cross_validation is not None:
            print(f"  estimated accuracy: {estimate_sentence(project.cross_validation)}")
        if project.outlook is not None:
            print(f"  {outlook_sentence(project.outlook)}")
        if project.finish is not None and (line := finish_sentence(project.finish)):
            print(f"  {line}")
        for notice in project.notices:
            print(f"  note: {notice}")
        for last in [error for error in project.errors if not error.is_over][:1]:
            print(f"  last error ({last.at}, {last.where}): {last.message}")
    for service in status.services:
        if service.problem:
            print(f"  {service.problem}")
    for problem in status.unreadable.values():
        print(problem, file=sys.stderr)
    if not status.projects and not status.unreadable:
        print("no project is set up yet: run `python -m scripts.setup_project`")
    return 1 if status.unreadable else 0


if __name__ == "__main__":
    run(main)
