"""The clock: once a second, is a retrain due; once a minute, did we miss anything in Label Studio.

Webhooks are hints that are sent once. Here the truth is read again, so that a lost one costs a
minute.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import httpx

from backend import registry
from backend.errors import LabelStudioError, ModelFolderError, TightloopError
from backend.labelstudio import CLOCK_SKEW, Annotation, LabelingProject, what_was_answered
from backend.settings import Settings
from backend.training_queue import TrainingQueue

log = logging.getLogger(__name__)

TICK_S = 1.0
ABANDONED_EVERY_S = 10.0
BACKEND_EVERY_S = 10.0
BACKEND_TIMEOUT_S = 2.0
# Only changed tasks are read. A deleted task just vanishes, so all are read again now and then.
FULL_READ_EVERY_S = 600.0
# Label Studio sends a webhook within the request that it is about, and gives up after a second:
# what was read has been told by then, or never will be.
WEBHOOK_GRACE_S = 2.0


@dataclass(frozen=True)
class Reading:
    """How many changes no round had seen when the annotations were read."""

    read_at: float
    n_behind: int
    trained: int  # the generation that was trained then


class Watch:
    """What the clock remembers of one project between two looks at Label Studio."""

    def __init__(self, project_id: int, project: LabelingProject) -> None:
        self.project_id = project_id
        self.project = project
        self.next_look = 0.0
        self.reading: Reading | None = None
        self._annotations: dict[int, list[Annotation]] = {}
        self._read_at: datetime | None = None
        self._full_read_at = 0.0

    def annotations(self, now: float) -> dict[int, list[Annotation]]:
        """All annotations as of now, of which only the changed ones are asked for."""
        began = datetime.fromtimestamp(now, UTC)
        if self._read_at is None or now - self._full_read_at >= FULL_READ_EVERY_S:
            self._annotations = self.project.annotations()
            self._full_read_at = now
        else:
            self._annotations |= self.project.annotations(changed_after=self._read_at - CLOCK_SKEW)
        self._read_at = began
        return self._annotations


class Clock:
    """Looks after every project that set-up has recorded in the model folder."""

    def __init__(self, settings: Settings, queue: TrainingQueue) -> None:
        self._settings = settings
        self._queue = queue
        self._watches: dict[int, Watch] = {}
        self._next_abandoned = 0.0
        self._next_backend = 0.0
        self._last_error = ""
        self._problems: dict[int, str] = {}  # of Label Studio, by project

    def tick(self, now: float) -> None:
        """One look at everything; a new error is logged, and the next tick tries again."""
        try:
            self._queue.note_tick(now)
            if now >= self._next_abandoned:
                self._next_abandoned = now + ABANDONED_EVERY_S
                self._queue.put_abandoned_back()
            if now >= self._next_backend:
                self._next_backend = now + BACKEND_EVERY_S
                self._queue.note_health("backend", self._problem_of_backend(), now, BACKEND_EVERY_S)
            damaged: list[str] = []
            for project_id in registry.known_projects(self._settings.model_dir):
                try:
                    self._tick_project(project_id, now)
                except ModelFolderError as error:  # the others are fine
                    damaged.append(str(error))
            self._note("; ".join(damaged))
        except TightloopError as error:
            self._note(str(error))

    def _tick_project(self, project_id: int, now: float) -> None:
        if project_id not in self._watches:
            self._watches[project_id] = self._watch(project_id)
        watch = self._watches[project_id]
        if now >= watch.next_look:
            watch.next_look = now + self._settings.reconcile_every_s
            self._look(watch, now)
        self._catch_up(watch, now)
        generation = self._queue.generation(project_id)
        if generation.is_due(
            now,
            retrain_after=self._settings.retrain_after,
            retrain_wait_s=self._settings.retrain_wait_s,
        ):
            self._queue.enqueue_retrain(project_id)
        if self._settings.train != "full" and generation.head_is_due(now):
            self._queue.enqueue_refit(project_id)

    def _look(self, watch: Watch, now: float) -> None:
        """Reconcile, and keep for people to see whether Label Studio answered."""
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
        root = registry.project_root(self._settings.model_dir, watch.project_id)
        answers = what_was_answered(watch.annotations(now))
        watch.reading = Reading(
            read_at=now,
            n_behind=registry.count_changes(registry.read_seen(root), answers),
            trained=self._queue.generation(watch.project_id).trained,
        )
        self._queue.note_facts(watch.project_id, asdict(watch.project.counts()))
        current = registry.current(root)
        is_ordered = registry.read_open_images(root) is not None
        if current and not (is_ordered and watch.project.model_version() == current.version):
            self._queue.enqueue_refresh(watch.project_id)
        self._queue.enqueue_top_up(watch.project_id)
        if registry.has_review(root):
            self._queue.enqueue_collect_reviews(watch.project_id)

    def _catch_up(self, watch: Watch, now: float) -> None:
        """Count what was read a moment ago and no webhook has told since."""
        reading = watch.reading
        if reading is None or now < reading.read_at + WEBHOOK_GRACE_S:
            return
        watch.reading = None
        if self._queue.generation(watch.project_id).trained != reading.trained:
            return  # a round has ended since, and seen what we could only guess
        missed = self._queue.catch_up(watch.project_id, reading.n_behind, now)
        if missed:
            log.info("project %d: %d changes came without a webhook", watch.project_id, missed)

    def _watch(self, project_id: int) -> Watch:
        return Watch(
            project_id,
            LabelingProject(
                self._settings.label_studio_url,
                self._settings.label_studio_api_key.get_secret_value(),
                project_id,
            ),
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
