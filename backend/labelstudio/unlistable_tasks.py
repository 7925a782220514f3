"""Remember which tasks Label Studio cannot list, so that they are read separately."""

from __future__ import annotations

from collections.abc import Collection

from backend.store.project_rows import Facts
from backend.store.project_store import ProjectStore

# At most this many tasks of each kind are remembered. Finding such a task takes about 20 requests,
# and every complete reading takes two or three requests for each.
MAX_TASKS = 20


class UnlistableTasks:
    """The tasks that make Label Studio answer 500 when it lists them.

    `untimed` tasks can be listed without the lead times of their annotations. `unlisted` tasks
    cannot be listed at all. They are kept in the project's database, or in memory if the project
    has none.
    """

    def __init__(self, store: ProjectStore | None = None) -> None:
        self._store = store
        self._facts = Facts()

    @property
    def untimed(self) -> frozenset[int]:
        """Return the tasks that can be listed only without lead times."""
        return frozenset(self._known().untimed_tasks)

    @property
    def unlisted(self) -> frozenset[int]:
        """Return the tasks that cannot be listed at all."""
        return frozenset(self._known().unlisted_tasks)

    def add_untimed(self, task_id: int) -> None:
        """Remember a task that can be listed only without lead times."""
        if task_id not in self.untimed:
            self._record(untimed_tasks=sorted({*self.untimed, task_id}))

    def add_unlisted(self, task_id: int) -> None:
        """Remember a task that cannot be listed at all."""
        if task_id not in self.unlisted:
            self._record(unlisted_tasks=sorted({*self.unlisted, task_id}))

    def forget(self, task_ids: Collection[int]) -> None:
        """Forget tasks that can be listed again or were deleted."""
        untimed, unlisted = self.untimed.difference(task_ids), self.unlisted.difference(task_ids)
        if untimed != self.untimed:
            self._record(untimed_tasks=sorted(untimed))
        if unlisted != self.unlisted:
            self._record(unlisted_tasks=sorted(unlisted))

    def _known(self) -> Facts:
        return self._facts if self._store is None else self._store.facts()

    def _record(self, **tasks: list[int]) -> None:
        if self._store is None:
            self._facts = self._facts.model_copy(update=tasks)
        else:
            self._store.record(**tasks)
