"""Connect to the Ray cluster, if SCALE asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from backend.rounds.loop import Loop


@contextmanager
def cluster_of(loop: Loop) -> Iterator[None]:
    """Stay connected for the time of the block, so that its steps do not connect one by one.

    Raises ScaleError if there is no connection. With SCALE=local, does nothing.
    """
    if loop.settings.scale == "local":
        yield
        return
    from backend.scale.cluster import connected  # Ray is imported only here and in such places

    with connected(loop.settings.ray_address):
        yield
