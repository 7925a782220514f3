"""Connect to the Ray cluster if SCALE asks for one, and tidy its folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from backend.rounds.loop import Loop
from backend.store.place import Place


def forget_other_runs(place: Place, kind: str, name: str) -> None:
    """Delete what killed runs of one kind have left behind, except the run with this name."""
    for other in place.names():
        if other.startswith(kind) and not other.startswith(name):
            place.delete(other)


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
