"""Query more images now: score the unlabeled pool, and ask for the least confident images.

    python -m scripts.sync --count 50
    python -m scripts.sync --count 50 --strategy margin --dry-run
    python -m scripts.sync --rescan

This command is needed only to query more images than the ranker queries automatically. An image
that was queried before is never queried again. With --rescan, no image is queried; instead, the
trainer immediately looks for images that were added to or removed from the pool. Without this
option, the trainer looks for such images every RESCAN_EVERY seconds.
"""

from __future__ import annotations

import json
from typing import Any

from backend.base.command_line import CommandParser, run
from backend.base.settings import load_settings
from backend.base.strategy_names import STRATEGIES
from backend.queue.training_queue import TrainingQueue
from backend.rounds import batches
from backend.rounds.foreign_tasks import adopt_tasks
from backend.rounds.loop import push_lock
from backend.rounds.observe import read_everything_changed
from backend.store.project_record import pick_project
from backend.web.controls import LocalControls
from scripts.console.options import add_project_option, at_least, open_chosen
from scripts.console.progress_bars import progress_bar


def main() -> int:
    """Query one batch, and print its images."""
    parser = CommandParser(description=__doc__)
    parser.add_argument(
        "--count", type=at_least(1), default=20, help="number of images to query (default: 20)"
    )
    parser.add_argument(
        "--strategy", choices=STRATEGIES, help="use this strategy instead of the project's"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only print the images that would be queried"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the images and the reasons as JSON"
    )
    parser.add_argument(
        "--rescan",
        action="store_true",
        help="query no images, but make the trainer look for new images now",
    )
    add_project_option(parser)
    arguments = parser.parse_args()
    settings = load_settings()
    if arguments.rescan:
        queue = TrainingQueue(settings.redis_url.get_secret_value())
        project_id = pick_project(settings.model_dir, arguments.project)
        LocalControls(settings, queue).rescan_now(project_id)
        print("the trainer looks for new images: the dashboard shows what it finds")
        return 0
    with progress_bar() as progress:
        _, loop = open_chosen(settings, arguments.project, progress)
        with push_lock(loop):
            read_everything_changed(loop.project, loop.store)
            adopt_tasks(loop.pool, loop.store)
            batch = batches.choose_batch(
                loop, arguments.count, arguments.strategy or loop.strategy, progress
            )
            if not arguments.dry_run:
                progress("asking", 0, 0)
                batches.push(loop, batch)
    if arguments.json:
        print(json.dumps(_report(batch, is_dry_run=arguments.dry_run), indent=2))
        return 0
    if arguments.dry_run:
        for image_id, confidence in zip(batch.image_ids, batch.confidences, strict=True):
            print(f"{confidence:.4f}  {image_id}")
    n_waiting = loop.pool.n_waiting
    print(_summary(batch, arguments.count, n_waiting, is_dry_run=arguments.dry_run))
    return 0


def _report(batch: batches.Batch, *, is_dry_run: bool) -> dict[str, Any]:
    return {
        "is_dry_run": is_dry_run,
        "strategy": batch.strategy,
        "version": batch.version.version if batch.version else None,
        "count": len(batch.image_ids),
        "images": [
            {"image_id": image_id, "confidence": round(float(confidence), 6)}
            for image_id, confidence in zip(batch.image_ids, batch.confidences, strict=True)
        ],
    }


def _summary(batch: batches.Batch, count: int, n_waiting: int, *, is_dry_run: bool) -> str:
    asked = len(batch.image_ids)
    if not asked and n_waiting:
        return f"nothing to ask yet: {n_waiting:,} images wait to be decoded"
    if not asked:
        return "nothing to query: every image in the pool has been queried"
    verb = "would ask" if is_dry_run else "asked"
    by = f"{batch.strategy}, {batch.version.version}" if batch.version else "random, no model yet"
    short = f"; only {asked} were left in the pool" if asked < count else ""
    low, high = batch.confidences.min(), batch.confidences.max()
    return f"{verb} {asked} images ({by}), confidence {low:.3f} to {high:.3f}{short}"


if __name__ == "__main__":
    run(main)
