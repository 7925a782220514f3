"""Progress bars: how a door shows what the loop is doing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from backend.loop import Progress


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """What a round reports to; a bar appears once something takes more than a second."""
    with tqdm(unit="image", delay=1, disable=None) as bar:

        def report(phase: str, done: int, total: int) -> None:
            bar.set_description(phase)
            bar.total = total
            bar.update(done - bar.n)

        yield report
