"""Write the model folder as a tar archive to standard output, while it is in use.

    python -m scripts.pack_models > models.tar

SQLite copies the databases, because a plain copy made during a write may be damaged. Embeddings,
exports, drafts and an unfinished adaptation are left out, because they can be regenerated.
"""

from __future__ import annotations

import os
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from backend.base.command_line import CommandParser, run
from backend.base.errors import ModelFolderError, StoreError
from backend.base.settings import load_settings
from backend.store import adaptation_checkpoint
from backend.store.exports import EXPORTS
from backend.store.model_outputs import CLUSTER, EMBEDDINGS
from backend.store.project_db import FILE, copy


def main() -> int:
    """Pack the model folder."""
    CommandParser(description=__doc__).parse_args()
    try:
        with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as tar:
            pack(load_settings().model_dir, tar)
    except OSError as error:
        raise ModelFolderError(f"the model folder cannot be packed: {error}") from error
    return 0


def pack(folder: Path, tar: tarfile.TarFile) -> None:
    """Add everything in the model folder that cannot be regenerated.

    A damaged database is added unchanged, and reported on standard error.
    """
    for path in sorted(_below(folder)):
        place = path.relative_to(folder)
        if is_left_out(place):
            continue
        with tempfile.TemporaryDirectory() as draft:
            source = path
            if path.name == FILE and path.is_file():
                try:
                    source = copy(path.parent, Path(draft))
                except StoreError as error:
                    print(f"packed unchanged: {error}", file=sys.stderr)
            try:
                tar.add(source, str(place), recursive=False)
            except FileNotFoundError:  # meanwhile, a draft was renamed or weights were pruned
                continue


def _below(folder: Path) -> Iterator[Path]:
    """Yield all paths below a folder, but skip folders that are deleted in the meantime."""

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        yield from (Path(parent, name) for name in (*folders, *names))


def is_left_out(place: Path) -> bool:
    """Return whether a path in the model folder can be regenerated, or belongs to a database."""
    is_draft = any(".draft-" in part for part in place.parts)
    is_beside_database = place.name in (f"{FILE}-wal", f"{FILE}-shm")
    caches = (EMBEDDINGS, CLUSTER, EXPORTS, adaptation_checkpoint.FILE)
    is_cache = place.parts[1:2] in [(name,) for name in caches]
    return is_draft or is_beside_database or is_cache


if __name__ == "__main__":
    run(main)
