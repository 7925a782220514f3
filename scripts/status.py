"""One sentence about every project, or the whole status as JSON.

python -m scripts.status [--json]
"""

from __future__ import annotations

import argparse
import json
import sys

from backend import registry
from backend.errors import TightloopError
from backend.settings import load_settings
from backend.status import outlook_sentence, project_status, sentence
from backend.training_queue import TrainingQueue


def main() -> int:
    """Print the status; 1 where it cannot be had."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="all that GET /status answers")
    arguments = parser.parse_args()
    try:
        settings = load_settings()
        queue = TrainingQueue(settings.redis_url.get_secret_value())
        ids = registry.known_projects(settings.model_dir)
        statuses = [project_status(settings, queue, project_id) for project_id in ids]
    except TightloopError as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps({"projects": statuses}, indent=2))
        return 0
    for status in statuses:
        print(sentence(status))
        if status["outlook"]:
            print(f"  {outlook_sentence(status['outlook'])}")
        for notice in status["notices"]:
            print(f"  note: {notice}")
        for last in status["errors"][:1]:
            print(f"  last error ({last['at']}, {last['where']}): {last['message']}")
    if not statuses:
        print("no project is set up yet: run `python -m scripts.setup_project`")
    return 0


if __name__ == "__main__":
    sys.exit(main())
