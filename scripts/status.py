"""One sentence about every project, or the whole status as JSON.

    python -m scripts.status
    python -m scripts.status --json

The backend answers the same at GET /status.
"""

from __future__ import annotations

import json
import sys

from backend.base.command_line import CommandParser, run
from backend.base.errors import TightloopError
from backend.base.settings import load_settings
from backend.queue.training_queue import TrainingQueue
from backend.rounds.learning_curve import outlook_sentence
from backend.web.status import sentence, whole_status


def main() -> int:
    """Print the status; 1 where it cannot be had."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="all that GET /status answers")
    arguments = parser.parse_args()
    try:
        settings = load_settings()
        queue = TrainingQueue(settings.redis_url.get_secret_value())
        status = whole_status(settings, queue)
    except TightloopError as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(status.as_json(), indent=2))
        return 0
    for project in status.projects:
        print(sentence(project))
        if project.outlook is not None:
            print(f"  {outlook_sentence(project.outlook)}")
        for notice in project.notices:
            print(f"  note: {notice}")
        for last in project.errors[:1]:
            print(f"  last error ({last.at}, {last.where}): {last.message}")
    for service in status.services:
        if service.problem:
            print(f"  {service.problem}")
    for problem in status.unreadable.values():
        print(problem, file=sys.stderr)
    if status.unreadable:
        return 1
    if not status.projects:
        print("no project is set up yet: run `python -m scripts.setup_project`")
    return 0


if __name__ == "__main__":
    run(main)
