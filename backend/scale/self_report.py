"""Say which versions a machine runs.

A node runs this module's functions as the driver has them, not as its own files have them, so that
two versions of the code can be told apart. Therefore, import nothing but the standard library.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import platform
from pathlib import Path


def versions() -> dict[str, str]:
    """Return the versions that must be the same on all machines, by what they are versions of.

    A version is empty if that package cannot be imported.
    """
    return {
        "Tightloop": code_version(),
        "torch": torch_version(),
        "Python": platform.python_version(),
    }


def code_version() -> str:
    """Return the SHA-256 of the package's source files, shortened to 12 digits."""
    spec = importlib.util.find_spec("backend")
    if spec is None or not spec.submodule_search_locations:
        return ""
    folder = Path(next(iter(spec.submodule_search_locations)))
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def torch_version() -> str:
    """Return torch's version without importing it, which would take seconds on each node."""
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return ""
