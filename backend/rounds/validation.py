"""Have annotators label the validation sample, and validate versions with their labels."""

from __future__ import annotations

from backend.rounds.loop import Loop


def with_validation(loop: Loop) -> Loop:
    """Return the loop with the validation labels that annotators have given so far.

    If the pool's validation labels are known, the loop is returned unchanged.
    """
    return loop
