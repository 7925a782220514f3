"""Save an unfinished adaptation, so that it resumes after an interruption.

The file holds the work of minutes, so a damaged file is logged and treated as missing. Backups
leave it out.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
from pydantic import BaseModel, Field

from backend.store.body_meta import Amount, Count
from backend.store.files import folder_errors
from backend.store.tensor_file import State, damage_logged, read_tensors, write_tensors

log = logging.getLogger(__name__)

FILE = "adapting.safetensors"
_META, _DIGEST = "checkpoint", "sha256"  # in the file's metadata


class CheckpointMeta(BaseModel, frozen=True):
    """Which adaptation a checkpoint belongs to, and how far that has got."""

    fingerprint: str = Field(min_length=1)  # of the images, the start and the recipe
    spent_s: Amount
    began_at: Amount  # seconds since the epoch
    pool_images: Count = 0  # that could be queried when the adaptation began; 0 = not recorded
    is_complete: bool = False  # whether only the comparison is left to do


def save_checkpoint(root: Path, state: State, meta: CheckpointMeta) -> None:
    """Replace the checkpoint atomically."""
    metadata = {_META: meta.model_dump_json(), _DIGEST: _digest(state)}
    with folder_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        write_tensors(root / FILE, state, metadata)


def load_checkpoint(root: Path, fingerprint: str) -> tuple[State, CheckpointMeta] | None:
    """Load the checkpoint of the adaptation with this fingerprint.

    Returns None, and logs the reason, if it is damaged or belongs to another adaptation.
    """
    path = root / FILE
    with damage_logged(path):
        metadata, state = read_tensors(path)
        meta = CheckpointMeta.model_validate_json(metadata.get(_META, ""))
        if metadata.get(_DIGEST) != _digest(state):
            raise ValueError("the tensors differ from their sha256")
        if meta.fingerprint == fingerprint:
            return state, meta
        log.info("%s belongs to another adaptation and was ignored", path)
    return None


def delete_checkpoint(root: Path) -> None:
    """Delete the checkpoint, if there is one."""
    with folder_errors(root):
        (root / FILE).unlink(missing_ok=True)


def _digest(state: State) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name} {state[name].dtype} {state[name].shape} ".encode())
        digest.update(np.ascontiguousarray(state[name]).tobytes())
    return digest.hexdigest()
