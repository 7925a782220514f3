"""Read a project's tasks through the Data Manager, page by page."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from backend.base.errors import DatabaseError, LabelStudioError, ProjectGoneError
from backend.base.labeling import ProjectCounts
from backend.labelstudio.client import LabelStudio
from backend.labelstudio.task_listing import (
    ANNOTATED,
    ANNOTATIONS,
    LEAD_TIME,
    UNANNOTATED,
    UNFINISHED,
    Filter,
    Listing,
)
from backend.labelstudio.unlistable_tasks import MAX_TASKS, UnlistableTasks

log = logging.getLogger(__name__)

T = TypeVar("T")
Row = Mapping[str, Any]  # a task as Label Studio's JSON

CHUNK = 500  # tasks or predictions in one request
# Label Studio 1.23 answers 500 if a task is deleted while it reads the task's page: it looks up the
# page's ids first, and expects to find all of these tasks afterwards.
TRIES = 3
MAX_ID = 2**31


class _UnlistableError(LabelStudioError):
    """Label Studio answered 500 to a request for a list of tasks."""


class TaskPages:
    """The tasks of one project, as Label Studio's JSON.

    A page that Label Studio cannot list is read again in smaller parts, down to single tasks. Tasks
    that cannot be listed are remembered, and are read separately or left out from then on.

    Methods raise LabelStudioError.
    """

    def __init__(self, server: LabelStudio, project_id: int, unlistable: UnlistableTasks) -> None:
        self._server = server
        self._project_id = project_id
        self._unlistable = unlistable

    def n_tasks(self) -> int:
        """Count all tasks with one cheap request."""
        return int(self._counts()["task_number"])

    def count_annotations(self) -> int:
        """Count the annotations and skips of all tasks with one cheap request."""
        counts = self._counts()
        return int(counts["total_annotations_number"] + counts["skipped_annotations_number"])

    def counts(self) -> ProjectCounts:
        """Count tasks and annotations with three cheap requests.

        Tasks that cannot be listed count neither as open nor as awaiting a second opinion.
        """
        counts = self._counts()
        return ProjectCounts(
            tasks=counts["task_number"],
            annotations=counts["total_annotations_number"],
            skipped=counts["skipped_annotations_number"],
            open=self._count(*UNANNOTATED),
            awaiting_second_opinion=self._count(UNFINISHED, ANNOTATED),
        )

    def read(
        self, include: str, filters: Sequence[Filter] = (), among: Collection[int] | None = None
    ) -> Iterator[Row]:
        """Yield the columns `include` of the tasks that pass all filters.

        With `among`, only these tasks are read, in one request for every CHUNK tasks. Tasks come in
        order of id, except that tasks whose lead times cannot be listed come last.
        """
        listing = Listing(tuple(include.split(",")), tuple(filters))
        unlisted = self._unlistable.unlisted
        untimed = self._unlistable.untimed if listing.is_timed else frozenset[int]()
        if among is None:
            yield from self._read(replace(listing, excluded=unlisted | untimed))
        else:
            for task_ids in chunks(sorted({*among} - unlisted - untimed)):
                yield from self._read(replace(listing, included=task_ids))
            untimed = untimed.intersection(among)
        yield from self._read_untimed(listing, untimed - unlisted)

    def recheck_unlisted(self) -> None:
        """Forget tasks that could not be listed earlier, but can be listed now or were deleted.

        Each task costs one request.
        """
        for task_id in sorted(self._unlistable.unlisted):
            try:
                self._page(Listing(("id", "data", ANNOTATIONS), included=[task_id]), 1)
            except _UnlistableError:
                continue
            self._unlistable.forget([task_id])

    def _count(self, *filters: Filter) -> int:
        listing = Listing(("id",), filters, excluded=self._unlistable.unlisted)
        return int(self._page(listing, 1)["total"])

    def _counts(self) -> Mapping[str, Any]:
        params = {"ids": self._project_id}
        found = self._server.request("GET", "api/projects/counts/", params=params)["results"]
        if not found:
            raise ProjectGoneError(self._server.url)
        counts: Mapping[str, Any] = found[0]
        return counts

    def _read(self, listing: Listing) -> Iterator[Row]:
        """Yield tasks page by page.

        Each page begins after the last id of the previous page, so deletions do not shift it. After
        a page that fails, smaller pages are read, until the task that cannot be listed is alone.
        """
        last_id, size = 0, CHUNK
        while True:
            rest = listing.after(last_id)
            try:
                body = self._page(rest, size, tries=TRIES if size in (CHUNK, 1) else 1)
            except _UnlistableError as error:
                if size == CHUNK and not self._can_list(listing, last_id, last_id):
                    raise  # even an empty list fails, so no task is the cause
                if rest.is_timed and len(self._unlistable.untimed) >= MAX_TASKS:
                    listing = listing.untimed()
                elif size > 1:
                    size //= 2
                else:
                    last_id, found = self._read_first(listing, last_id, error)
                    yield from found
                continue
            page = body["tasks"]
            yield from page
            if len(page) >= body["total"] or not page:
                return
            last_id, size = page[-1]["id"], min(2 * size, CHUNK)

    def _read_first(
        self, listing: Listing, last_id: int, error: LabelStudioError
    ) -> tuple[int, Sequence[Row]]:
        """Read the first task after `last_id`, which Label Studio cannot list.

        Returns its id, and the task if it can be listed without lead times. Raises `error` if Label
        Studio cannot list anything.
        """
        if listing.is_timed:
            try:
                page = self._page(listing.after(last_id).untimed(), 1, tries=TRIES)["tasks"]
                return (page[0]["id"] if page else last_id), [
                    self._read_alone(listing, task) for task in page
                ]
            except _UnlistableError:
                pass
        task_id = self._find_first(listing.untimed(), last_id, error)
        if len(self._unlistable.unlisted) >= MAX_TASKS:
            raise LabelStudioError(
                f"Label Studio at {self._server.url} cannot list task {task_id} and {MAX_TASKS} "
                "other tasks (it answers 500): to delete them, run `python -m scripts.repair_tasks "
                f"--project {self._project_id} --delete`"
            )
        log.warning(
            "project %d: Label Studio cannot list task %d (it answers 500), so it is left out",
            self._project_id,
            task_id,
        )
        self._unlistable.add_unlisted(task_id)
        return task_id, ()

    def _find_first(self, listing: Listing, last_id: int, error: LabelStudioError) -> int:
        """Return the id of the first task after `last_id`, given that it cannot be listed.

        A listing of the ids from `last_id` to another id fails if it contains the task. Raises
        `error` if even an empty listing fails.
        """
        low, high = last_id, last_id + 1
        if not self._can_list(listing, last_id, low):
            raise error
        while self._can_list(listing, last_id, high):
            low, high = high, 2 * high - last_id
            if high > MAX_ID:
                raise error
        while high - low > 1:
            middle = (low + high) // 2
            if self._can_list(listing, last_id, middle):
                low = middle
            else:
                high = middle
        return high

    def _can_list(self, listing: Listing, last_id: int, up_to: int) -> bool:
        """Return whether Label Studio can list the first task after `last_id`, if its id is at most
        `up_to`.
        """
        try:
            self._page(listing.after(last_id, up_to), 1, tries=TRIES)
        except _UnlistableError:
            return False
        return True

    def _read_untimed(self, listing: Listing, task_ids: Collection[int]) -> Iterator[Row]:
        """Yield tasks that had impossible lead times when they were last read, if they pass the
        listing's filters.
        """
        found = set()
        for part in chunks(sorted(task_ids)):
            for task in self._read(replace(listing.untimed(), included=part)):
                found.add(task["id"])
                yield self._read_alone(listing, task)
        if not listing.filters:  # tasks that were not found are deleted, or cannot be listed now
            self._unlistable.forget({*task_ids} - found - self._unlistable.unlisted)

    def _read_alone(self, listing: Listing, untimed: Row) -> Row:
        """Read a task with its lead times; remember whether Label Studio can list it with them.

        `untimed` is the task without lead times.
        """
        if not listing.is_timed:
            return untimed
        task_id = untimed["id"]
        try:
            page = self._page(Listing(listing.columns, included=[task_id]), 1)["tasks"]
        except _UnlistableError:
            if task_id not in self._unlistable.untimed:
                log.warning(
                    "project %d: Label Studio cannot list task %d with its lead times (it answers "
                    "500), so they are read one by one",
                    self._project_id,
                    task_id,
                )
            self._unlistable.add_untimed(task_id)
            return {**untimed, ANNOTATIONS: [*map(self._with_time, untimed[ANNOTATIONS])]}
        self._unlistable.forget([task_id])
        return page[0] if page else untimed

    def _with_time(self, annotation: Row) -> Row:
        """Return an annotation with its lead time; infinity if Label Studio cannot show it."""
        try:
            path = f"api/annotations/{annotation['id']}/"
            found = self._server.request("GET", path, may_be_gone=True) or {}
        except LabelStudioError as error:
            if not _may_be_due_to_task(error):
                raise
            found = {LEAD_TIME: math.inf}
        return {**annotation, LEAD_TIME: found.get(LEAD_TIME)}

    def _page(self, listing: Listing, size: int, *, tries: int = 1) -> Mapping[str, Any]:
        params = {"project": self._project_id, "page_size": size, **listing.params()}
        while True:
            tries -= 1
            try:
                return self._server.request("GET", "api/tasks/", params=params)
            except LabelStudioError as error:
                if not _may_be_due_to_task(error):
                    raise
                if not tries:
                    raise _UnlistableError(str(error), error.status) from None


def chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield parts of at most CHUNK items."""
    return (items[i : i + CHUNK] for i in range(0, len(items), CHUNK))


def _may_be_due_to_task(error: LabelStudioError) -> bool:
    """Return whether a task in a listing may be the cause of an error."""
    return error.status == 500 and not isinstance(error, DatabaseError)
