"""Record what followed a fault."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What followed a fault."""

    name: str
    lasted_s: float
    limit_s: float
    back_s: float | None  # until all services were back; None = never
    caught_up_s: float | None  # from then until everything was done; None = never
    last_lag: str  # the last thing that was left to do
    left_out: str = ""  # why the fault could not happen

    @property
    def is_in_time(self) -> bool:
        """Return whether the stack caught up within the limit."""
        is_caught_up = self.caught_up_s is not None and self.caught_up_s <= self.limit_s
        return bool(self.left_out) or is_caught_up

    @property
    def has_recovered(self) -> bool:
        """Return whether the stack caught up at all."""
        return bool(self.left_out) or self.caught_up_s is not None

    def line(self) -> str:
        """Return the outcome as one line of text."""
        if self.left_out:
            return f"{self.name}: left out, because {self.left_out}"
        lasted = f"{self.name}, {self.lasted_s:.0f} s"
        if self.back_s is None:
            return f"{lasted}: NOT BACK ({self.last_lag})"
        back = f"back after {self.back_s:.1f} s"
        if self.caught_up_s is None:
            return f"{lasted}: {back}, NOT CAUGHT UP ({self.last_lag})"
        late = "" if self.is_in_time else f" TOO LATE, limit {self.limit_s:.0f} s ({self.last_lag})"
        return f"{lasted}: {back}, caught up {self.caught_up_s:.1f} s later{late}"
