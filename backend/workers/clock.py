"""Look at every project once a second, and once a minute at Label Studio, whose webhooks are sent
once and may be lost.

What is due is decided from databases and Redis alone, so that a busy or dead ranker delays no
training.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from datetime import datetime

import httpx

from backend.base.errors import LabelStudioError, ModelFolderError, TightloopError
from backend.base.settings import Settings
from backend.labelstudio.project import LabelStudioProject
from backend.queue.training_queue import TrainingQueue
from backend.rounds.decide import Policy, decide
from backend.rounds.observe import observe, policy_of, read_changes, read_everything_changed
from backend.store.project_db import Connection, connect
from backend.store.project_record import known_projects, project_root
from backend.store.project_store import ProjectStore

log = logging.getLogger(__name__)

TICK_S = 1.0
ABANDONED_EVERY_S = 10.0
BACKEND_EVERY_S = 10.0
BACKEND_TIMEOUT_S = 2.0
# A deleted task is missed at once by its number. This finds what no number tells.
FULL_READ_EVERY_S = 3600.0
# Label Studio sends a webhook within the request that it is about, and gives up after a second:
# what was read has been told by then, or never will be.
WEBHOOK_GRACE_S = 2.0


@dataclass(frozen=True)
class Found:
    """What a reading found that nobody had read before."""

    read_at: float
    since: float  # when the reading before it began
    n_answers: int


class Watch:
    """What the clock remembers of one project between two looks."""

    def __init__(self, project_id: int, project: LabelStudioProject, keeper: Connection) -> None:
        self.project_id = project_id
        self.project = project
        # Open as long as the clock runs: on a read-only mount others could not open it otherwise.
        self.keeper = keeper
        self.next_reading = 0.0
        self.look_at = 0.0
        self.looks = -1
        self.found: Found | None = None


class Clock:
    """Looks after every project that set-up has recorded in the model folder."""

    def __init__(self, settings: Settings, queue: TrainingQueue) -> None:
        self._settings = settings
        self._queue = queue
        self._policy: Policy = policy_of(settings)
        self._watches: dict[int, Watch] = {}
        self._next_abandoned = 0.0
        self._next_backend = 0.0
        self._last_error = ""
        self._problems: dict[int, str] = {}  # of Label Studio, by project

    def tick(self, now: float) -> None:
        """Look at everything once; a new error is logged, and the next tick tries again."""
        try:
            self._queue.note_tick(now)
            if now >= self._next_abandoned:
                self._next_abandoned = now + ABANDONED_EVERY_S
                self._queue.put_abandoned_back()
            if now >= self._next_backend:
                self._next_backend = now + BACKEND_EVERY_S
                self._queue.note_health("backend", self._problem_of_backend(), now, BACKEND_EVERY_S)
            problems: list[str] = []
            for project_id in known_projects(self._settings.model_dir):
                try:
                    self._tick_project(project_id, now)
                except (LabelStudioError, ModelFolderError) as error:  # the others may be fine
                    problems.append(str(error))
            self._note("; ".join(dict.fromkeys(problems)))
        except TightloopError as error:
            self._note(str(error))

    def close(self) -> None:
        """Close the databases."""
        for watch in self._watches.values():
            watch.keeper.close()

    def _tick_project(self, project_id: int, now: float) -> None:
        if project_id not in self._watches:
            self._watches[project_id] = self._watch(project_id)
        watch = self._watches[project_id]
        unreachable = None
        if now >= watch.next_reading:
            watch.next_reading = now + self._settings.reconcile_every_s
            watch.look_at = now
            try:
                self._read(watch, now)
            except LabelStudioError as error:
                unreachable = error  # what is due does not depend on it
        self._tell_missed(watch, now)
        hints = self._queue.hints(project_id)
        if hints.looks != watch.looks or now >= watch.look_at:
            watch.looks = hints.looks
            watch.look_at = self._look(watch, now)
        if unreachable:
            raise unreachable

    def _tell_missed(self, watch: Watch, now: float) -> None:
        """Log how many answers were read a moment ago that no webhook has named since."""
        found = watch.found
        if found is None or now < found.read_at + WEBHOOK_GRACE_S:
            return
        watch.found = None
        missed = found.n_answers - len(self._queue.answered_since(watch.project_id, found.since))
        if missed > 0 and found.since:
            log.info("project %d: %d changes came without a webhook", watch.project_id, missed)

    def _look(self, watch: Watch, now: float) -> float:
        """Enqueue what is due; return when to look again."""
        root = project_root(self._settings.model_dir, watch.project_id)
        state = observe(root, self._queue, watch.project_id)
        store = ProjectStore(root)
        if state.train_asked_at > store.facts().train_asked_at:
            store.record(train_asked_at=state.train_asked_at)  # Redis may be lost
        decision = decide(state, self._policy, now)
        if decision.train:
            self._queue.enqueue_retrain(watch.project_id, is_forced=state.is_training_asked)
        if decision.rank:
            self._queue.enqueue_rank(watch.project_id)
        return now if decision.train or decision.rank else decision.look_at

    def _read(self, watch: Watch, now: float) -> None:
        """Read what changed, and keep for people to see whether Label Studio answered."""
        self._problems[watch.project_id] = ""
        try:
            self.reconcile(watch, now)
        except LabelStudioError as error:
            self._problems[watch.project_id] = str(error)
            raise
        finally:
            problem = "; ".join(sorted(set(self._problems.values()) - {""}))
            every_s = self._settings.reconcile_every_s
            self._queue.note_health("label_studio", problem, now, every_s)

    def _problem_of_backend(self) -> str:
        url = self._settings.backend_url
        try:
            # A proxy of the environment is for other addresses than our own.
            if httpx.get(f"{url}/health", timeout=BACKEND_TIMEOUT_S, trust_env=False).is_success:
                return ""
        except httpx.HTTPError:
            pass
        return (
            f"the backend at {url} does not answer, so webhooks are lost until the clock finds "
            "what they told: it is starting, or its log says why"
        )

    def reconcile(self, watch: Watch, now: float) -> None:
        """Make good what webhooks, jobs or a lost Redis left undone."""
        store = ProjectStore(project_root(self._settings.model_dir, watch.project_id))
        since, n_known = store.facts().read_at, store.new_answers()[0]
        if now - store.facts().full_read_at >= FULL_READ_EVERY_S:
            read_changes(watch.project, store, is_full=True, now=now)
        else:
            read_everything_changed(watch.project, store, now=now)
        watch.found = Found(now, since, store.new_answers()[0] - n_known)
        counts, was_ordered_by = store.counts(), store.facts().ordered_by
        # Without open tasks there is nothing to order. Before we have ordered them, nobody has kept
        # what is open, whatever Label Studio says.
        if was_ordered_by and (counts.open or counts.awaiting_second_opinion):
            ordered_by = watch.project.model_version()
            if ordered_by != was_ordered_by:
                store.record(ordered_by=ordered_by)

    def _watch(self, project_id: int) -> Watch:
        root = project_root(self._settings.model_dir, project_id)
        watch = Watch(project_id, self._project(project_id), connect(root))
        is_training_asked, errors = self._queue.take_earlier(project_id)
        for error in reversed(errors):
            at = datetime.fromisoformat(error["at"])
            ProjectStore(root).record_error(error["where"], error["message"], at)
        if is_training_asked:
            ProjectStore(root).record(train_asked_at=time.time())
        return watch

    def _project(self, project_id: int) -> LabelStudioProject:
        return LabelStudioProject(
            self._settings.label_studio_url,
            self._settings.label_studio_api_key.get_secret_value(),
            project_id,
        )

    def _note(self, error: str) -> None:
        if error and error != self._last_error:
            log.error("%s", error)
        elif self._last_error and not error:
            log.info("all services answer again")
        self._last_error = error


def run(settings: Settings, stop: threading.Event) -> None:
    """Tick until `stop` is set."""
    clock = Clock(settings, TrainingQueue(settings.redis_url.get_secret_value()))
    log.info("the clock ticks")
    while not stop.wait(TICK_S):
        clock.tick(time.time())
    clock.close()
