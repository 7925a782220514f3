"""Delete the weights of adapted bodies from which no kept version was trained."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path

from backend.base.errors import ModelFolderError
from backend.store.bodies import Bodies
from backend.store.body_meta import BodyMeta
from backend.store.files import folder_errors
from backend.store.registry import Registry

log = logging.getLogger(__name__)


def choose_pruned_bodies(bodies: Sequence[BodyMeta], starts: Collection[str]) -> list[str]:
    """Return the bodies to prune, oldest first.

    `bodies` contains the intact bodies, oldest first, and `starts` the starts of all versions that
    keep their weights, and the start of the next training run. The newest body is kept even if it
    was refused, so that a person can still choose it.
    """
    newest = {body.name for body in bodies[-1:]}
    stay = newest.union(starts)
    return [body.name for body in bodies if body.pruned_at is None and body.name not in stay]


def prune_bodies(root: Path, keep_versions: int, now: datetime) -> None:
    """Delete the weights of old bodies; if `keep_versions` is 0, all bodies are kept.

    The caller must hold the promote lock. A body is marked as pruned before its weights are
    deleted, so after a crash, it is either intact or marked as pruned.
    """
    bodies = Bodies(root)
    if keep_versions and bodies.names():
        try:
            starts = {*Registry(root).starts(), bodies.start().name}
        except ModelFolderError as error:  # what cannot be read may name any body
            log.warning("kept all adapted bodies: %s", error)
        else:
            for name in choose_pruned_bodies(bodies.all()[0], starts):
                bodies.mark_pruned(name, now)
                log.info("pruned the weights of %s: no kept version started from it", name)
    _delete_weights(root)


def _delete_weights(root: Path) -> None:
    pruned = [body.name for body in Bodies(root).all()[0] if body.pruned_at is not None]
    with folder_errors(root):
        for path in (path for name in pruned for path in (root / name).iterdir()):
            if path.name != "meta.json":
                path.unlink(missing_ok=True)
