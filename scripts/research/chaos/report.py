"""Sum up a run in a table of the kinds of faults, the findings of the audit, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from scripts.research.chaos.audit import Finding
from scripts.research.chaos.outcome import Outcome


@dataclass(frozen=True)
class Report:
    """The results of one run."""

    n_faults: int  # how many were planned
    outcomes: Sequence[Outcome]
    findings: Sequence[Finding]
    seconds: float
    learned_s: float | None  # from the last annotation until all were learned; None = never

    @property
    def is_clean(self) -> bool:
        """Return whether all faults happened, the stack caught up in time, and nothing was lost."""
        return (
            len(self.outcomes) == self.n_faults
            and all(outcome.is_in_time for outcome in self.outcomes)
            and not any(finding.problems for finding in self.findings)
            and self.learned_s is not None
        )

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        n_late = sum(not outcome.is_in_time for outcome in self.outcomes)
        n_left_out = sum(bool(outcome.left_out) for outcome in self.outcomes)
        verdict = "clean" if self.is_clean else "NOT CLEAN"
        learned = "not all learned" if self.learned_s is None else f"{self.learned_s:.0f} s"
        return [
            *self._table(),
            "",
            *(line for finding in self.findings for line in finding.lines()),
            f"{'learned':<12} {learned} after the last annotation",
            "",
            f"{len(self.outcomes)} of {self.n_faults} faults in {self.seconds / 60:.0f} minutes, "
            f"{n_left_out} left out, {n_late} not caught up in time: {verdict}",
        ]

    def _table(self) -> list[str]:
        """Return a line per kind of fault: how often, and the seconds to catch up."""
        happened = [outcome for outcome in self.outcomes if not outcome.left_out]
        kinds = sorted({outcome.name for outcome in happened})
        width = max(map(len, (*kinds, "fault")))
        lines = [f"{'fault':<{width}}  {'count':>5}  {'median':>8}  {'worst':>8}  {'limit':>6}"]
        for kind in kinds:
            of_kind = [o for o in happened if o.name == kind]
            times = [float("inf") if o.caught_up_s is None else o.caught_up_s for o in of_kind]
            lines.append(
                f"{kind:<{width}}  {len(of_kind):>5}  {median(times):>6.1f} s  "
                f"{max(times):>6.1f} s  {of_kind[0].limit_s:>4.0f} s"
            )
        return lines
