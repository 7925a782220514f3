"""Hold an adaptation under way, record its progress, and save it so that it can be resumed."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from backend.base.errors import ModelFolderError
from backend.base.progress import Progress
from backend.network.adaptation import Adaptation
from backend.rounds.adapting_rule import expected_seconds
from backend.rounds.loop import Loop
from backend.rounds.start import StartBody
from backend.store.adaptation_checkpoint import CheckpointMeta, save_checkpoint
from backend.store.project_record import check_attached

log = logging.getLogger(__name__)

PHASE = "adapting the body"
LOOK_EVERY_S = 5.0
SAVE_EVERY_S = 60.0


@dataclass
class Run:
    """An adaptation under way, which may have begun in another process."""

    adaptation: Adaptation
    start: StartBody
    image_ids: tuple[str, ...]
    fingerprint: str
    began_at: float  # seconds since the epoch
    pool_images: int  # that could be queried when it began
    spent_s: float = 0.0
    is_resumed: bool = False  # whether it goes on from a checkpoint
    is_complete: bool = False  # whether only the comparison is left to do

    def report(self, loop: Loop, progress: Progress, passes: float | None = None) -> None:
        """Report how much of the time is over."""
        total = self._expected_s(loop, passes)
        progress(PHASE, round(min(self.spent_s, total)), round(total))

    def record_progress(self, loop: Loop, passes: float | None = None) -> None:
        """Record for the status how much of the time is over."""
        loop.store.record(
            adapt_began_at=self.began_at,
            adapt_spent_s=self.spent_s,
            adapt_budget_s=self._expected_s(loop, passes),
        )

    def record_saved(self, loop: Loop) -> None:
        """Record that the work so far outlasts a kill.

        Earlier failures are over only if this attempt goes on from where they happened: one that
        starts over may fail again in the same place. Saving after the last step does not count,
        because the comparison may still fail.
        """
        if self.is_resumed:
            loop.store.record_success("adapt", adapt_kills=0, adapt_failures=0, adapt_error="")
        else:
            loop.store.record(adapt_kills=0)

    def save(self, loop: Loop) -> bool:
        """Save the unfinished adaptation; return False if that fails, as on a full disk."""
        check_attached(loop.root)
        state = {name: tensor.numpy() for name, tensor in self.adaptation.state_dict().items()}
        meta = CheckpointMeta(
            fingerprint=self.fingerprint,
            spent_s=self.spent_s,
            began_at=self.began_at,
            pool_images=self.pool_images,
            is_complete=self.is_complete,
        )
        try:
            save_checkpoint(loop.root, state, meta)
        except ModelFolderError as error:
            log.error("the unfinished adaptation was not saved: %s", error)
            return False
        return True

    def _expected_s(self, loop: Loop, passes: float | None) -> float:
        passes = self.adaptation.passes_done if passes is None else passes
        return expected_seconds(loop.settings.adapt, self.spent_s, passes)
