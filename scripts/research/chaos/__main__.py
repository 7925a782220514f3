"""Break a stack at random while people label, and check that nothing is lost.

    python -m scripts.research.chaos --faults 100 --seed 1

Starts a temporary stack in var/chaos, in which two people with accounts label. Each fault is
followed by a line with the seconds until the stack had caught up: all annotations acknowledged so
far are counted, the open tasks carry the predictions of the version in service, and training has
begun if it is due. At the end, a table sums up all kinds of faults, and an audit checks
annotations, tasks, counts, versions and logs. If anything was lost, duplicated, damaged or late,
the exit code is 1, and the logs are kept in var/chaos-failed.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from random import Random

from backend.base.command_line import ROOT, CommandParser, run
from backend.store import project_db
from scripts.research.chaos.chaos_stack import ChaosStack
from scripts.research.chaos.digit_pool import write_digit_pool
from scripts.research.chaos.faults import FAULTS
from scripts.research.chaos.ledger import Ledger
from scripts.research.chaos.model_disk import model_disk
from scripts.research.chaos.stack_clock import stack_clock
from scripts.research.chaos.trial import break_stack, draw_faults
from scripts.research.temporary_stack import temporary_stack

SETTINGS = {
    "PROJECT_TITLE": "Chaos",
    "WEIGHTS": "none",
    "IMAGE_SIZE": "32",
    "SEED_LABELS": "60",
    "RETRAIN_AFTER": "20",
    "RECONCILE_EVERY": "15",
}
FIRST_IMAGES, IMAGES_PER_FAULT = 600, 50
KEPT = ROOT / "var/chaos-failed"


def main() -> int:
    """Run the faults; return 1 if a target was missed."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=100, help="how many faults (default: 100)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random draw (default: 1)")
    arguments = parser.parse_args()
    faults = draw_faults(FAULTS, arguments.faults, Random(arguments.seed))
    place = ROOT / "var/chaos-run"
    shutil.rmtree(place, ignore_errors=True)
    write_digit_pool(place / "pool", FIRST_IMAGES + IMAGES_PER_FAULT * len(faults))
    settings = {**SETTINGS, "POOL": str(place / "pool"), "DATA_DIR": str(place / "data")}
    with (
        stack_clock() as clock,
        model_disk() as models,
        temporary_stack("chaos", **settings, **clock, MODEL_DIR=str(models)) as running,
    ):
        stack = ChaosStack(running.var, running.environment, Ledger(place / "ledger.jsonl"))
        report = break_stack(stack, faults, arguments.seed, _announce)
        print("\n".join(["", *report.lines()]))
        if not report.is_clean:
            _keep_logs(stack, place)
    shutil.rmtree(place)
    return 0 if report.is_clean else 1


def _announce(line: str) -> None:
    print(time.strftime("%H:%M:%S"), line, flush=True)


def _keep_logs(stack: ChaosStack, place: Path) -> None:
    """Copy everything that may explain a failure."""
    shutil.rmtree(KEPT, ignore_errors=True)
    shutil.copytree(stack.var / "log", KEPT / "log")
    shutil.copy(place / "ledger.jsonl", KEPT)
    project_db.copy(stack.root, KEPT)
    print(f"the logs, the ledger and project.db are in {KEPT}")


if __name__ == "__main__":
    run(main)
