"""Report on each annotator: annotations, agreement, quality, and accepted guesses.

    python -m scripts.annotators
    python -m scripts.annotators --csv > people.csv

--json and --csv include figures that the table omits.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from unicodedata import east_asian_width

from backend.base.command_line import CommandParser, run
from backend.base.settings import OverlapName, load_settings
from backend.measures.interval import interval_of
from backend.rounds.annotators import annotator_figures
from backend.rounds.labels import read_labels
from backend.rounds.observe import read_everything_changed
from backend.rounds.validation import read_sample
from backend.store.project_rows import AnnotatorFigures
from scripts.console.options import add_project_option, open_chosen
from scripts.console.progress_bars import progress_bar

HEADER = (
    "annotator", "annotations", "skipped", "agreement", "quality", "95% interval",
    "guesses accepted", "guesses right", "seconds",
)  # fmt: skip
MIN_GUESSES = 20
NEARLY_ALL = 0.95


def main() -> int:
    """Print the report."""
    parser = CommandParser(description=__doc__)
    add_project_option(parser)
    formats = parser.add_mutually_exclusive_group()
    formats.add_argument("--json", action="store_true", help="print all figures as JSON")
    formats.add_argument("--csv", action="store_true", help="print all figures as CSV")
    arguments = parser.parse_args()
    settings = load_settings()
    with progress_bar() as progress:
        project, loop = open_chosen(settings, arguments.project, progress)
        progress("reading annotations", 0, 0)
        read_everything_changed(project, loop.store)
        annotations = loop.store.annotations()
        reading = read_labels(loop, annotations)
        names = project.annotator_names()
        rows = annotator_figures(annotations, reading, loop.names, names, read_sample(loop))
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    elif arguments.csv:
        writer = csv.DictWriter(sys.stdout, [field.name for field in fields(AnnotatorFigures)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    else:
        print("\n".join([*table(rows), *remarks(rows, loop.overlap)]))
    return 0


def table(rows: Sequence[AnnotatorFigures]) -> list[str]:
    """Return a header and a line per annotator, or an empty list if there are no annotators."""
    if not rows:
        return []
    lines = [HEADER, *map(_cells, rows)]
    widths = [max(map(_columns, column)) for column in zip(*lines, strict=True)]
    return [_line(cells, widths) for cells in lines]


def remarks(rows: Sequence[AnnotatorFigures], overlap: OverlapName) -> list[str]:
    """Return remarks that a team lead may want to act on."""
    if not any(row.answers for row in rows):
        return ["No annotations yet."]
    found = []
    if careless := [row.name for row in rows if _accepts_everything(row)]:
        found.append(
            f"Accepting nearly every guess of the model, right or wrong: {', '.join(careless)}. "
            "Go through some of these images together."
        )
    if alone := [r.name for r in rows if r.answers and r.quality is None and r.agreement is None]:
        remedy = (
            "set OVERLAP=auto to have others label some of them"
            if overlap == "1"
            else f"with OVERLAP={overlap}, others get these images once they label"
        )
        found.append(
            "Quality is unknown if no one else labeled the same images: "
            f"{', '.join(alone)} ({remedy})."
        )
    return found


def _accepts_everything(row: AnnotatorFigures) -> bool:
    # A careful annotator corrects wrong guesses, so the share of accepted guesses is close to the
    # share of right guesses. Accepting more than 95 % of at least 20 guesses is suspicious if this
    # share is above the whole 95 % interval for the share of right guesses.
    if row.guesses_taken is None or row.guesses_right is None or row.guesses_shown < MIN_GUESSES:
        return False
    _, high = interval_of(row.guesses_right, row.guesses_shown)
    return row.guesses_taken > max(NEARLY_ALL, high)


def _cells(row: AnnotatorFigures) -> tuple[str, ...]:
    interval = (
        "-"
        if row.quality_low is None or row.quality_high is None
        else f"{row.quality_low:.0%} to {row.quality_high:4.0%}"
    )
    return (
        row.name,
        f"{row.answers:,}",
        f"{row.skipped:,}",
        _percent(row.agreement),
        _percent(row.quality),
        interval,
        _percent(row.guesses_taken),
        _percent(row.guesses_right),
        "-" if row.median_seconds is None else f"{row.median_seconds:.1f}",
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Return a table row with the name left-aligned and the figures right-aligned."""
    blanks = [" " * (width - _columns(cell)) for cell, width in zip(cells, widths, strict=True)]
    figures = [blank + cell for blank, cell in zip(blanks[1:], cells[1:], strict=True)]
    return "  ".join([cells[0] + blanks[0], *figures])


def _columns(text: str) -> int:
    """Return the width of text in terminal columns; wide East Asian characters take two."""
    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)


if __name__ == "__main__":
    run(main)
