"""Correct recorded times that are in the future because the machine's clock was set back.

Without this, everything that depends on such a time would wait until the clock reached it.
"""

from __future__ import annotations

from pathlib import Path

from backend.base.labeling import CLOCK_SKEW_S
from backend.store.project_db import writing
from backend.store.project_store import ProjectStore

STEP_S = 0.001


def correct_moments(root: Path, now: float) -> bool:
    """Move all times after `now` (seconds since the epoch) to just before `now`, in their order.

    Also requests a full reading, because changes made since the clock was set back are older than
    the last reading. Returns whether anything was corrected.
    """
    store = ProjectStore(root)
    facts = store.facts()
    moments = {name: at for name, at in facts if name.endswith("_at") and name != "failed_at"}
    later = {at for at in (*moments.values(), *facts.failed_at.values()) if at > now + CLOCK_SKEW_S}
    if not later:
        return False
    corrected = {at: now - STEP_S * (len(later) - place) for place, at in enumerate(sorted(later))}
    with writing(root) as db:
        for table, column in (("task", "read_at"), ("annotation", "changed_at")):
            query = f"UPDATE mirror_{table} SET {column} = ? WHERE {column} > ?"
            db.execute(query, (now - STEP_S, now))
    changed = {name: corrected[at] for name, at in moments.items() if at in corrected}
    failed_at = {step: corrected.get(at, at) for step, at in facts.failed_at.items()}
    store.record(**{**changed, "failed_at": failed_at, "full_read_at": 0.0})
    return True
