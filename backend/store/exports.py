"""Find the files that the ranker exports for downloads."""

from __future__ import annotations

from pathlib import Path

EXPORTS = "exports"  # in the project's folder


def labels_path(root: Path) -> Path:
    """Return the path of a project's exported labels, whether the file exists or not."""
    return root / EXPORTS / "labels.csv"
