"""Give a stack a separate clock, which can be set while the stack runs.

Every process of the stack loads stack_clock.c, which adds an offset to the time of day. The
machine's clock, and the times that the kernel gives to files, do not change.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

OFFSET_FILE = "CLOCK_OFFSET_FILE"
SOURCE = Path(__file__).with_suffix(".c")


@contextmanager
def stack_clock() -> Iterator[dict[str, str]]:
    """Yield the variables that give a stack's processes this clock; {} without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="tightloop-clock-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # as root, PostgreSQL runs as another user
        library, offset = folder / "stack_clock.so", folder / "offset"
        command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE)]
        subprocess.run(command, check=True)
        offset.write_bytes(bytes(8))
        library.chmod(0o755)
        offset.chmod(0o644)
        yield {"LD_PRELOAD": str(library), OFFSET_FILE: str(offset)}


def set_stack_clock(environment: Mapping[str, str], offset_s: int) -> None:
    """Set the stack's clock to the real time plus `offset_s` seconds."""
    # All processes have mapped the file, so it must be changed in place and in a single write.
    with Path(environment[OFFSET_FILE]).open("r+b", buffering=0) as file:
        file.write(offset_s.to_bytes(8, "little", signed=True))
