"""Run many rounds on a separate stack, and measure what grows.

    python -m scripts.research.long_run --rounds 200

An oracle labels the digits in Label Studio, and changes some of its annotations. Full versions and
heads learn from them. Every ten rounds, an older version is put in service; every twenty rounds,
the whole stack is restarted. Prints a table for a quarter, a half and all of the rounds, and writes
all measurements into var/long_run.json.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

from backend.base.command_line import ROOT, CommandParser, run
from backend.base.errors import LabelStudioError
from backend.store import pruning
from backend.store.project_record import project_root
from scripts.console.options import at_least
from scripts.research.footprint import Footprint, measure
from scripts.research.labeling_oracle import labeling_oracle
from scripts.research.measurement import announce
from scripts.research.temporary_stack import TemporaryStack, temporary_stack

LABELED, CHANGED = 3, 3  # annotations in each round; training takes longer with more labels
NAME = "long-run"
SETTINGS = {
    "DATA_DIR": str(ROOT / "var" / NAME / "data"),
    "POOL": "digits",
    "SEED_LABELS": "40",
    "WEIGHTS": "none",
    "IMAGE_SIZE": "24",
    "TRAIN": "both",
    "OVERLAP": "1",
    "BATCH_SIZE": "7",
    "RETRAIN_AFTER": str(LABELED + CHANGED),
    "RETRAIN_WAIT": "3600",
    "LABEL_STUDIO_TASK_LOCK_TTL": "60",  # so that predictions of old versions can be deleted
    "DASHBOARD_PASSWORD": "",
    "LOG_FORMAT": "text",
}
ROLL_BACK_EVERY, RESTART_EVERY = 10, 20  # rounds
REST_S = 20.0  # before each measurement
PATIENCE_S = 900.0
POLL_S = 0.5


def main() -> int:
    """Run the rounds, and print the table."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--rounds", type=at_least(4), default=200, help="default: 200")
    n_rounds: int = parser.parse_args().rounds
    with temporary_stack(NAME, **SETTINGS) as stack:
        measured = run_rounds(stack, n_rounds)
    print("\n".join(table(measured, [n_rounds // 4, n_rounds // 2, n_rounds])))
    return 0


def run_rounds(stack: TemporaryStack, n_rounds: int) -> dict[int, Footprint]:
    """Run the rounds; return the measurements after some of them, by round."""
    measured: dict[int, Footprint] = {}
    milestones = {n_rounds // 4, n_rounds // 2, n_rounds}
    _wait_for_round(stack, 1)
    with labeling_oracle(stack.info, stack.var / "data") as oracle:
        oracle.label(LABELED + CHANGED)
        _wait_for_round(stack, 2)
        for number in range(3, n_rounds + 1):
            began = time.monotonic()
            if number % ROLL_BACK_EVERY == 0:
                stack.run("scripts.models", "promote", f"r{number - 2:04d}")
            oracle.label(LABELED)
            oracle.change(CHANGED)
            _wait_for_round(stack, number)
            announce(f"round {number}: {time.monotonic() - began:.0f} s")
            _let_a_day_pass(stack)
            is_restart = number % RESTART_EVERY == 0
            if is_restart or number in milestones:
                measured[number] = measure(stack.var, REST_S)
                (ROOT / "var/long_run.json").write_text(json.dumps(measured, indent=2))
            if is_restart and number < n_rounds:
                stack.down()
                stack.up()
    return measured


def _wait_for_round(stack: TemporaryStack, number: int) -> None:
    """Wait until a round is done and nothing is left to do."""
    give_up = time.monotonic() + PATIENCE_S
    url = f"{stack.info['backend_url']}/status"
    while True:
        status = httpx.get(url, timeout=60, trust_env=False).raise_for_status().json()
        [project] = status["projects"]
        is_done = project["round"] >= number and project["new_annotations"] < LABELED + CHANGED
        if is_done and not project["jobs"] and project["open_tasks"]:
            return
        if time.monotonic() > give_up:
            raise LabelStudioError(
                f"round {number} is not done after {PATIENCE_S:.0f} s: see {stack.var}/log"
            )
        time.sleep(POLL_S)


def _let_a_day_pass(stack: TemporaryStack) -> None:
    """Make an announced deletion of weights due, for which the loop would wait a day."""
    info = stack.info
    root = project_root(Path(info["model_dir"]), info["project_id"])
    announced_at = pruning.read_announcement(root)
    if announced_at is not None:
        pruning.write_announcement(root, announced_at - pruning.NOTICE)


def table(measured: Mapping[int, Footprint], rounds: Sequence[int]) -> list[str]:
    """Return the lines of the table, with a column for each of these rounds."""
    lines = ["after round".ljust(50) + "".join(f"{number:>12}" for number in rounds)]
    for section in measured[rounds[-1]]:
        columns = [measured[number][section] for number in rounds]
        names = dict.fromkeys(name for column in columns for name in column)
        lines += ["", section]
        for name in names:
            amounts = "".join(f"{_format(column.get(name, 0))}" for column in columns)
            lines.append(f"  {name:<48}{amounts}")
    return lines


def _format(amount: float) -> str:
    return f"{amount:>12,.1f}" if 0 < amount < 10 and amount % 1 else f"{amount:>12,.0f}"


if __name__ == "__main__":
    run(main)
