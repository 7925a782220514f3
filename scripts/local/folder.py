"""Manage the folder of a local stack (VAR_DIR): stack.json, logs, sockets, and the start lock."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.base.errors import TightloopError

SOCKET_PATH_BYTES = 100  # the system's limit is 107 on Linux and 103 on macOS
LOG_LINES = 12


class StackError(TightloopError):
    """The stack cannot be started or stopped, or did not become ready."""


@dataclass(frozen=True)
class StackFolder:
    """The files of one stack. Only the owner of the files can read them."""

    path: Path

    def read(self) -> dict[str, Any]:
        """Return the content of stack.json, or an empty dict if the file is missing or damaged."""
        with suppress(FileNotFoundError, json.JSONDecodeError):
            return dict(json.loads((self.path / "stack.json").read_text()))
        return {}

    def update(self, **changes: Any) -> None:
        """Update fields of stack.json."""
        self.write("stack.json", json.dumps(self.read() | changes, indent=2))

    def write(self, name: str, text: str) -> None:
        """Replace a file atomically, with mode 0600."""
        path = self.path / name
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.touch(mode=0o600)
        draft.write_text(text)
        draft.replace(path)

    def log(self, program: str) -> Path:
        """Return the path of a program's log."""
        return self.path / "log" / f"{program}.log"

    def tail(self, program: str) -> str:
        """Return the last lines of a program's log, formatted to follow an error message."""
        path = self.log(program)
        lines = path.read_text(errors="replace").splitlines()[-LOG_LINES:] if path.exists() else []
        return "".join(f"\n  | {line[:200]}" for line in [f"the last lines of {path}:", *lines])

    @property
    def sockets(self) -> Path:
        """Return the folder of the running stack's sockets."""
        return (self.path / "run").resolve()

    def make_sockets_folder(self) -> None:
        """Make an empty folder for sockets.

        The folder is a link to a temporary folder if the sockets' paths would be too long here.
        """
        self.remove_sockets_folder()
        run = self.path / "run"
        if len(bytes(run / "postgres/.s.PGSQL.5432")) < SOCKET_PATH_BYTES:
            run.mkdir()
        else:
            run.symlink_to(tempfile.mkdtemp(prefix="tightloop-"))
        run.chmod(0o711)  # as root, PostgreSQL runs as another user, who must reach its subfolder

    def remove_sockets_folder(self) -> None:
        """Remove the folder for sockets and everything in it."""
        shutil.rmtree(self.sockets, ignore_errors=True)
        (self.path / "run").unlink(missing_ok=True)

    @contextmanager
    def start_lock(self) -> Iterator[None]:
        """Lock the start of this stack; raise StackError if another `make up` has locked it."""
        with (self.path / "up.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StackError("another `make up` is starting this stack") from None
            yield
