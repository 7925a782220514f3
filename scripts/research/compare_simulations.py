"""Compare simulations with and without adapting the body, over several pools.

    python -m scripts.research.compare_simulations --pool CIFAR-10 var/sim-adapted var/sim

Each --pool names a pool, the folder of a simulation with adapting, and the folder of one without.
Both must have run with the same --budgets and seeds. Writes compared.md: by how much --strategy on
the adapted body differs from random selection on either body, with p-values that are corrected for
all comparisons. Draws the first pool's learning curves as curves.png and curves.svg.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.base.command_line import CommandParser, run
from backend.base.errors import SettingsError
from scripts.research.adapted_body import SHARED_FIELDS
from scripts.research.budget_report import (
    SIGNIFICANT,
    Difference,
    differences,
    format_difference,
    holm,
    labels_for_reference,
)
from scripts.research.curve_plot import GREY, Line, draw
from scripts.research.learning_curves import BASELINE, Row, curves, read_rows
from scripts.research.simulation import PLAN

# What both simulations of a pool must have in common.
SAME = (*SHARED_FIELDS, "train", "annotators", "budgets")


@dataclass(frozen=True)
class Pool:
    """The results of the two simulations of a pool."""

    name: str
    budgets: tuple[int, ...]
    adapted: list[Row]
    plain: list[Row]


def main() -> int:
    """Write and print the comparison, and draw the curves."""
    parser = CommandParser(description=__doc__)
    parser.add_argument(
        "--pool",
        action="append",
        nargs=3,
        required=True,
        metavar=("NAME", "ADAPTED", "PLAIN"),
        help="a pool and the folders of its simulations; can be repeated",
    )
    parser.add_argument("--strategy", default="auto", help="default: auto")
    parser.add_argument("--out", type=Path, default="var/compared", help="default: var/compared")
    arguments = parser.parse_args()
    pools = [_read(name, Path(adapted), Path(plain)) for name, adapted, plain in arguments.pool]
    report = _report(pools, arguments.strategy)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "compared.md").write_text(report)
    draw(_lines(pools[0], arguments.strategy), arguments.out / "curves")
    print(report)
    return 0


def _read(name: str, adapted: Path, plain: Path) -> Pool:
    """Read both simulations of a pool. Raises SettingsError if they cannot be compared."""
    plans = [_read_plan(folder) for folder in (adapted, plain)]
    if differing := [field for field in SAME if plans[0].get(field) != plans[1].get(field)]:
        raise SettingsError(f"{adapted} and {plain} differ in {', '.join(differing)}")
    rows = [read_rows(folder / "curves.csv", Row) for folder in (adapted, plain)]
    seeds = [{row.repeat for row in of_one} for of_one in rows]
    if seeds[0] != seeds[1]:
        raise SettingsError(
            f"{adapted} and {plain} have different seeds ({len(seeds[0])} and {len(seeds[1])}): "
            "complete both with the same --repeats"
        )
    return Pool(name, tuple(plans[0]["budgets"]), *rows)


def _read_plan(folder: Path) -> dict[str, Any]:
    try:
        plan: dict[str, Any] = json.loads((folder / PLAN).read_text())
    except FileNotFoundError:
        raise SettingsError(f"{folder} is not the folder of a simulation") from None
    if not (folder / "curves.csv").exists() or not plan["budgets"]:
        raise SettingsError(
            f"{folder} has no results at fixed numbers of labels: complete its simulation, with "
            "--budgets"
        )
    return plan


def _report(pools: Sequence[Pool], strategy: str) -> str:
    of_pools: list[tuple[str, Difference, Difference]] = []
    for pool in pools:
        same_body = differences(pool.adapted, [strategy], pool.budgets)
        plain = differences(pool.adapted, [strategy], pool.budgets, pool.plain)
        of_pools += [(pool.name, *both) for both in zip(same_body, plain, strict=True)]
    every = [difference for _, *both in of_pools for difference in both]
    p_of = dict(zip(every, holm([found.p_value for found in every]), strict=True))
    lines = [
        f"Difference of {strategy} on the adapted body from random selection, in points, paired by "
        "seed, with its 95 % interval; bold if it is significant after Holm's correction for all "
        f"{len(every)} comparisons.\n",
        "| pool | labels | from random on the adapted body | from random on the pre-trained body |",
        "|---|---|---|---|",
    ]
    for name, *both in of_pools:
        cells = [format_difference(found, p_of[found] < SIGNIFICANT) for found in both]
        lines.append(f"| {name} | {both[0].labels:,} | " + " | ".join(cells) + " |")
    n_worse = sum(found.mean < 0 and p_of[found] < SIGNIFICANT for found in every)
    lines += ["", f"- significantly worse than random at {n_worse} of {len(every)} comparisons"]
    for pool in pools:
        told = labels_for_reference(pool.adapted, [strategy, BASELINE], pool.plain)
        lines.append(f"\n{pool.name}, on the adapted body:\n{told.rstrip()}")
    return "\n".join(lines) + "\n"


def _lines(pool: Pool, strategy: str) -> list[Line]:
    return [
        Line(f"{name}, {body}", curves(rows, name), color, name == BASELINE, marker)
        for body, rows, color in (
            ("adapted body", pool.adapted, "C0"),
            ("pre-trained body", pool.plain, GREY),
        )
        for name, marker in ((strategy, "o"), (BASELINE, "s"))
    ]


if __name__ == "__main__":
    run(main)
