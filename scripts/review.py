"""List the labels that are most likely wrong, worst first, and have them reviewed.

    python -m scripts.review --count 50
    python -m scripts.review --count 50 --push

--push creates tasks in a separate Label Studio project, in which an experienced annotator labels
the images without seeing hints. These labels become ground truth, and the next training run uses
them. An image that is already in a review task is not pushed again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from backend.base.command_line import CommandParser, run
from backend.base.settings import load_settings
from backend.labelstudio.client import label_now_url
from backend.people.label_errors import LikelyError
from backend.rounds.reviews import (
    collect_reviews,
    find_label_errors,
    find_reviews,
    open_reviews,
    push_reviews,
)
from backend.store.files import lock
from scripts.console.options import add_project_option, at_least, open_chosen
from scripts.console.progress_bars import progress_bar


def main() -> int:
    """List likely label errors; with --push, create review tasks for them."""
    parser = CommandParser(description=__doc__)
    parser.add_argument(
        "--count", type=at_least(1), default=50, help="number of labels to list (default: 50)"
    )
    parser.add_argument(
        "--push", action="store_true", help="create review tasks for the listed labels"
    )
    parser.add_argument("--json", action="store_true", help="print the list as JSON")
    add_project_option(parser)
    arguments = parser.parse_args()
    settings = load_settings()
    with progress_bar() as progress:
        project, loop = open_chosen(settings, arguments.project, progress)
        progress("reading annotations", 0, 0)
        reviews = find_reviews(settings, loop.root)
        # Collect reviews first, so that labels that have just been reviewed are not listed again.
        collected = collect_reviews(loop.root, project, reviews) if reviews else 0
        errors = find_label_errors(loop, progress)
    known = {task.image_id for task in reviews.tasks()} if arguments.push and reviews else set()
    n_found = len(errors)
    errors = [error for error in errors if error.image_id not in known][: arguments.count]
    pushed, url = 0, None
    if arguments.push and errors:
        with lock(loop.root, "review"):
            reviews = open_reviews(settings, loop.root, project)
            pushed = push_reviews(loop, reviews, errors)
    if reviews:
        url = label_now_url(settings.browser_url, reviews.project_id)
    if arguments.json:
        found = [asdict(error) for error in errors]
        report = {"errors": found, "collected": collected, "pushed": pushed, "review_url": url}
        print(json.dumps(report, indent=2))
        return 0
    if collected:
        print(f"{collected} reviewed labels became ground truth")
    if n_found and not errors:
        print(f"all {n_found} doubtful labels are already in review: {url} -> Label All Tasks")
        return 0
    print(_table(errors))
    if pushed:
        print(f"pushed {pushed} for review: {url} -> Label All Tasks")
    return 0


def _table(errors: Sequence[LikelyError]) -> str:
    if not errors:
        return "nothing to review: the model contradicts no label"
    head = ("quality", "label", "perhaps", "image", "why")
    rows = [(f"{e.quality:.2f}", e.label, e.suggested, e.image_id, e.reason) for e in errors]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    )


if __name__ == "__main__":
    run(main)
