"""Render a page at most once a second, however many people view it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

PAGE_LIFETIME_S = 1.0


@dataclass(frozen=True)
class Page:
    """The rendered dashboard of one project, and its HTTP status."""

    html: str
    status: int
    rendered_at: float = field(default_factory=time.monotonic)

    @property
    def is_fresh(self) -> bool:
        """Return whether the page is recent enough to be sent again."""
        return time.monotonic() - self.rendered_at <= PAGE_LIFETIME_S


class PageCache:
    """The newest page of each project.

    While one request renders a page, other requests get the previous page. Slow rendering therefore
    does not block the other threads, which webhooks need.
    """

    def __init__(self, render: Callable[[int | None], Page]) -> None:
        self._render = render
        self._pages: dict[int | None, Page] = {}
        self._rendering = threading.Lock()

    def page(self, project_id: int | None) -> Page:
        """Return the page of a known project, or of the newest project if `project_id` is None."""
        last = self._pages.get(project_id)
        if last is not None and (last.is_fresh or not self._rendering.acquire(blocking=False)):
            return last
        if last is None:
            self._rendering.acquire()
        try:
            page = self._pages.get(project_id)  # another request may have rendered it meanwhile
            if page is None or not page.is_fresh:
                page = self._pages[project_id] = self._render(project_id)
            return page
        finally:
            self._rendering.release()

    def clear(self) -> None:
        """Discard all pages, because something has just changed."""
        with self._rendering:
            self._pages.clear()
