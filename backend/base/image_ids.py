"""Derive the ids of an attached project's images from the ids of their tasks.

The tasks of an attached project belong to its team, so nothing is written into their data.
"""

from __future__ import annotations

PREFIX = "ls-"  # no id of an image in a folder, list, bucket or data set begins like this


def image_id_of_task(task_id: int) -> str:
    """Return the id of the image in an attached project's task."""
    return f"{PREFIX}{task_id}"


def task_id_of_image(image_id: str) -> int:
    """Return the id of the task with this image. Raises ValueError for any other image id."""
    if not image_id.startswith(PREFIX):
        raise ValueError(f"{image_id!r} is not the id of an attached project's image")
    return int(image_id.removeprefix(PREFIX))
