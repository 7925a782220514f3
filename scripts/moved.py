"""Print the new path of a command that has moved."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn


def exit_moved(old_file: str) -> NoReturn:
    """Print the new path of a research command, and exit with the code of a usage error."""
    name = Path(old_file).stem
    sys.stderr.write(f"this command is now: python -m scripts.research.{name}\n")
    sys.exit(2)
