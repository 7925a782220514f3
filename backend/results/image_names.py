"""Find an image by its name: its path or address as the pool lists it, or its id."""

from __future__ import annotations

from collections.abc import Callable

from backend.images.pool import Pool
from backend.labelstudio.rows import kept_address

AMBIGUOUS = ""  # no image has an empty id


def image_finder(pool: Pool, *, is_attached: bool) -> Callable[[str], str]:
    """Return a function that takes an image's name and returns its id.

    A path may be below the pool's folder or absolute. In an attached project, an address is the one
    in the task. The function raises ValueError with the reason if no image or more than one image
    has the name.
    """
    ids = _ids_by_name(pool, is_attached=is_attached)
    folder = f"{pool.name.rstrip('/')}/"

    def find(name: str) -> str:
        known = kept_address(name) if is_attached else name
        found = ids.get(name, ids.get(known, ids.get(name.removeprefix(folder))))
        if found is None:
            raise ValueError("is not in the pool")
        if found == AMBIGUOUS:
            raise ValueError("has the address of several images: use the image's id")
        return found

    return find


def _ids_by_name(pool: Pool, *, is_attached: bool) -> dict[str, str]:
    """Return a mapping from every name of every image in the pool to the image's id."""
    if pool.source is None:
        splits = (pool.image_ids, pool.sample.image_ids, pool.validation.image_ids)
        return {i: i for ids in (*splits, pool.test.image_ids) for i in ids}
    table = pool.source.index.table
    image_ids = table["image_id"].to_pylist()
    names: dict[str, str] = {}
    for image_id, location in zip(image_ids, table["location"].to_pylist(), strict=True):
        # The location of an attached project's image begins with the task's id.
        name = location.partition(" ")[2] if is_attached else location
        names[name] = AMBIGUOUS if name in names else image_id
    return names | dict(zip(image_ids, image_ids, strict=True))
