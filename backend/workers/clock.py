"""Check every project once a second. Read Label Studio once a minute in case webhooks were lost.

Decisions use only the databases and Redis, so neither a busy ranker nor an unreachable Label Studio
delays training.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import httpx

from backend.base.errors import (
    DetachedError,
    LabelConfigError,
    LabelStudioError,
    ModelFolderError,
    ProjectGoneError,
    TightloopError,
)
from backend.base.labeling import CLOCK_SKEW_S
from backend.base.settings import Settings
from backend.labelstudio.attached_project import open_project
from backend.labelstudio.project import LabelStudioProject
from backend.labelstudio.project_connection import ProjectConnection, address_of
from backend.queue.training_queue import Hints, TrainingQueue
from backend.rounds.adapting_rule import must_adapt
from backend.rounds.classes import follow_classes
from backend.rounds.connection import follow_connection
from backend.rounds.decide import State, decide
from backend.rounds.gone_project import gone_notice, record_gone
from backend.rounds.label_config_problem import record_label_config
from backend.rounds.observe import observe, read_changes, read_everything_changed
from backend.rounds.order_problem import record_order
from backend.store.moments import correct_moments
from backend.store.project_db import Connection, connect
from backend.store.project_record import known_projects, project_root, read_record
from backend.store.project_store import ProjectStore

log = logging.getLogger(__name__)

TICK_S = 1.0
ABANDONED_EVERY_S = 10.0
BACKEND_EVERY_S = 10.0
BACKEND_TIMEOUT_S = 2.0
# The task count reveals a deleted task at once; only a full reading finds all other changes.
FULL_READ_EVERY_S = 3600.0
# Label Studio sends a webhook during the request that causes it, and gives up after a second. If
# the webhook for an annotation has not arrived after this delay, it was lost.
WEBHOOK_GRACE_S = 2.0
# After a failed reading, so that status soon shows that Label Studio responds again.
READ_AGAIN_S = 10.0


@dataclass(frozen=True)
class Found:
    """When a reading took place, and how many new annotations it found."""

    read_at: float
    since: float  # when the previous reading began
    n_new: int


@dataclass
class Watch:
    """The clock's memory of one project between ticks."""

    project_id: int
    project: LabelStudioProject
    store: ProjectStore
    # Kept open while the clock runs, so that processes with a read-only mount can open the
    # database.
    connection: Connection
    label_studio: ProjectConnection | None = None  # created when first needed
    next_reading: float = 0.0
    look_at: float = 0.0
    looks: int = -1
    found: Found | None = None
    problem: str = ""  # why the last reading failed


class Clock:
    """Watches every project that is set up in the model folder."""

    def __init__(self, settings: Settings, queue: TrainingQueue) -> None:
        self._settings = settings
        self._queue = queue
        self._watches: dict[int, Watch] = {}
        self._next_abandoned = 0.0
        self._next_backend = 0.0
        self._ticked_at = 0.0
        self._is_backend_up = False
        self._last_error = ""

    def tick(self, now: float) -> None:
        """Check everything once; log a new error and retry at the next tick."""
        if now < self._ticked_at - CLOCK_SKEW_S:
            self._start_over(self._ticked_at - now)
        self._ticked_at = now
        try:
            self._queue.record_tick(now)
            if now >= self._next_abandoned:
                self._next_abandoned = now + ABANDONED_EVERY_S
                self._queue.requeue_abandoned()
            if now >= self._next_backend:
                self._next_backend = now + BACKEND_EVERY_S
                problem = self._check_backend()
                self._is_backend_up = not problem
                self._queue.record_health("backend", problem, now, BACKEND_EVERY_S)
            problems = []
            project_ids = known_projects(self._settings.model_dir)
            self._forget_all_but(project_ids)
            for project_id in project_ids:
                try:
                    problems.append(self._tick_project(project_id, now))
                except (LabelStudioError, ModelFolderError) as error:  # check the other projects
                    problems.append(str(error))
            self._log_change("; ".join(dict.fromkeys(filter(None, problems))))
        except TightloopError as error:
            self._log_change(str(error))

    def close(self) -> None:
        """Close the databases."""
        self._forget_all_but(())

    def _start_over(self, back_s: float) -> None:
        """Make everything due at once, because the machine's clock was set back."""
        log.warning("the clock of this machine was set back by %.0f s", back_s)
        self._next_abandoned = self._next_backend = 0.0
        for watch in self._watches.values():
            watch.next_reading = watch.look_at = 0.0
            watch.found = None

    def _forget_all_but(self, project_ids: Collection[int]) -> None:
        """Stop watching all other projects, which were detached."""
        for gone in self._watches.keys() - project_ids:
            self._watches.pop(gone).connection.close()

    def _tick_project(self, project_id: int, now: float) -> str:
        """Read the project and enqueue due jobs; return the error if reading failed, or ""."""
        if project_id not in self._watches:
            self._watches[project_id] = self._watch(project_id)
        watch = self._watches[project_id]
        if now >= watch.next_reading:
            watch.next_reading = now + self._settings.reconcile_every_s
            watch.look_at = now
            self._read(watch, now)
        self._log_lost_webhooks(watch, now)
        looks = self._queue.hints(project_id).looks
        if looks != watch.looks or now >= watch.look_at:
            watch.looks = looks
            watch.look_at = self._look(watch, now)
        return watch.problem

    def _watch(self, project_id: int) -> Watch:
        root = project_root(self._settings.model_dir, project_id)
        watch = Watch(
            project_id, open_project(self._settings, project_id), ProjectStore(root), connect(root)
        )
        is_training_asked, errors = self._queue.take_over_earlier_release(project_id)
        for error in reversed(errors):
            at = datetime.fromisoformat(error["at"])
            watch.store.record_error(error["where"], error["message"], at)
        if is_training_asked:
            watch.store.record(train_asked_at=time.time())
        self._forget_adapting_failures(watch.store)
        return watch

    def _forget_adapting_failures(self, store: ProjectStore) -> None:
        """End the errors of adapting if it is no longer due, for example with ADAPT=off."""
        facts, setting = store.facts(), self._settings.adapt
        has_failed = facts.adapt_failures or "adapt" in facts.failed_at
        if has_failed and not must_adapt(setting, facts.pool_images, facts.adapted_images):
            store.record_success("adapt", adapt_failures=0, adapt_error="")

    def _read(self, watch: Watch, now: float) -> None:
        """Read the changes from Label Studio, and record for the dashboard whether it responded."""
        watch.problem = ""
        try:
            gone = self._read_unless_gone(watch, now)
            record_gone(watch.store, watch.project_id, gone)
        except (LabelStudioError, LabelConfigError) as error:  # jobs may be due nevertheless
            watch.problem = str(error)
            watch.next_reading = min(watch.next_reading, now + READ_AGAIN_S)
        problems = {watch.problem for watch in self._watches.values()} - {""}
        every_s = self._settings.reconcile_every_s
        self._queue.record_health("label_studio", "; ".join(sorted(problems)), now, every_s)

    def _read_unless_gone(self, watch: Watch, now: float) -> str:
        """Read the project; return a notice if it is gone from Label Studio, or ""."""
        try:
            self._read_project(watch, now)
        except ProjectGoneError:
            record = read_record(project_root(self._settings.model_dir, watch.project_id))
            return gone_notice(self._settings, record) if record else ""
        return ""

    def _read_project(self, watch: Watch, now: float) -> None:
        store = watch.store
        self._correct_moments(watch, now)
        facts, n_known = store.facts(), store.new_annotations()[0]
        since = facts.read_at
        # A project that is back may have been restored from an old backup.
        if facts.gone or now - facts.full_read_at >= FULL_READ_EVERY_S:
            read_changes(watch.project, store, is_full=True, now=now)
        else:
            read_everything_changed(watch.project, store, now=now)
        watch.found = Found(now, since, store.new_annotations()[0] - n_known)
        root = project_root(self._settings.model_dir, watch.project_id)
        config = watch.project.label_config()
        record = follow_classes(root, config.choices)
        if record is not None:
            record_label_config(store, record, config)
            record_order(store, record, watch.project.task_order())
        self._follow_connection(watch, now)

    def _follow_connection(self, watch: Watch, now: float) -> None:
        """Restore the connection to Label Studio if the backend is up and set-up is not running."""
        settings = self._settings
        has_secrets = settings.webhook_secret and settings.backend_password
        if not (self._is_backend_up and has_secrets):
            return
        if watch.label_studio is None:
            token = settings.label_studio_api_key.get_secret_value()
            url = settings.label_studio_url
            watch.label_studio = ProjectConnection(url, token, watch.project_id)
        root = project_root(settings.model_dir, watch.project_id)
        try:
            follow_connection(root, watch.label_studio, settings, address_of(settings), now)
        except (DetachedError, ModelFolderError) as error:  # the next reading tries again
            log.debug("project %d: %s", watch.project_id, error)

    def _correct_moments(self, watch: Watch, now: float) -> None:
        """Correct all times that are in the future because the machine's clock was set back."""
        self._record_requests(watch, self._queue.hints(watch.project_id))
        self._queue.forget_future(watch.project_id, now)
        root = project_root(self._settings.model_dir, watch.project_id)
        if correct_moments(root, now):
            log.warning("project %d: corrected times in the future", watch.project_id)

    def _log_lost_webhooks(self, watch: Watch, now: float) -> None:
        """Log how many of the new annotations found by the last reading no webhook has reported."""
        found = watch.found
        if found is None or now < found.read_at + WEBHOOK_GRACE_S:
            return
        watch.found = None
        n_lost = found.n_new - len(self._queue.annotated_since(watch.project_id, found.since))
        if n_lost > 0 and found.since:
            log.info("project %d: %d changes arrived without a webhook", watch.project_id, n_lost)

    def _look(self, watch: Watch, now: float) -> float:
        """Enqueue due jobs; return the time of the next check."""
        root = project_root(self._settings.model_dir, watch.project_id)
        state = observe(root, self._queue, watch.project_id)
        self._record_requests(watch, state)
        due = decide(state, self._settings, now)
        if due.train:
            is_forced = state.is_asked(due.train)
            self._queue.enqueue(due.train, watch.project_id, is_forced=is_forced)
        if due.rank:
            self._queue.enqueue("rank", watch.project_id)
        return now if due.train or due.rank else due.look_at

    def _record_requests(self, watch: Watch, seen: State | Hints) -> None:
        """Record people's requests in the database, because Redis may lose its data."""
        facts = watch.store.facts()
        for name in ("train_asked_at", "rescan_asked_at"):
            if (asked_at := getattr(seen, name)) > getattr(facts, name):
                watch.store.record(**{name: asked_at})

    def _check_backend(self) -> str:
        """Return what is wrong with the backend and how to fix it, or ""."""
        url = self._settings.backend_url
        try:
            # Never use a proxy from the environment, because the address is internal.
            if httpx.get(f"{url}/health", timeout=BACKEND_TIMEOUT_S, trust_env=False).is_success:
                return ""
        except httpx.HTTPError:
            pass
        return (
            f"The backend at {url} does not respond, so webhooks are lost and changes are noticed "
            "later. If this persists, check the backend log."
        )

    def _log_change(self, error: str) -> None:
        if error and error != self._last_error:
            log.error("%s", error)
        elif self._last_error and not error:
            log.info("all services respond again")
        self._last_error = error


def run(settings: Settings, stop: threading.Event) -> None:
    """Run the clock until `stop` is set."""
    clock = Clock(settings, TrainingQueue(settings.redis_url.get_secret_value()))
    log.info("the clock is running")
    while not stop.wait(TICK_S):
        clock.tick(time.time())
    clock.close()
