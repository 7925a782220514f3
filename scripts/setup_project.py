"""Set up the project in Label Studio: tasks, ML backend, webhook, and the first training run.

    python -m scripts.setup_project
    python -m scripts.setup_project --label-config my.xml

Label Studio, Redis and the backend must be running. Running it again changes nothing.
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

from backend.base.command_line import CommandParser, run
from backend.base.settings import load_settings
from backend.labelstudio.client import label_now_url
from scripts.setup.label_config import read_label_config
from scripts.setup.steps import set_up


def main() -> int:
    """Set up the project and print what was done."""
    parser = CommandParser(description=__doc__)
    parser.add_argument(
        "--label-config", type=Path, metavar="FILE", help="replace the project's label config"
    )
    parser.add_argument("--json", action="store_true", help="print the project's id and address")
    arguments = parser.parse_args()
    settings = load_settings()
    path: Path | None = arguments.label_config
    label_config = None if path is None else read_label_config(path)
    with redirect_stdout(sys.stderr if arguments.json else sys.stdout):
        project_id = set_up(settings, label_config=label_config)
    if arguments.json:
        url = label_now_url(settings.browser_url, project_id)
        print(json.dumps({"project_id": project_id, "project_url": url}, indent=2))
    return 0


if __name__ == "__main__":
    run(main)
