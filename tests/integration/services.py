"""Start some services of a stack, as tests need them before our own processes may run.

    python -m tests.integration.services tables           # PostgreSQL with Label Studio's tables
    python -m tests.integration.services without-backend  # PostgreSQL, Redis and Label Studio

`python -m scripts.up down` stops them. It is a separate process because its settings come from the
environment, as in `scripts.up`.
"""

from __future__ import annotations

import argparse
import os
import subprocess

from scripts.local import programs, supervisor
from scripts.local.folder import StackFolder
from scripts.local.settings import StackSettings, make_environment


def main() -> None:
    """Return when the services are ready."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("tables", "without-backend"))
    if parser.parse_args().what == "tables":
        environment = _start("postgres")
        # Label Studio's commands create its tables first; this one creates no user.
        subprocess.run([programs.LABEL_STUDIO, "version"], env=environment, check=True)
    else:
        _start("postgres", "redis", "label-studio")  # our backend would create a project


def _start(*names: str) -> dict[str, str]:
    """Start services in their order; return the environment of the stack's processes."""
    os.umask(0o077)
    settings = StackSettings.load()
    folder = StackFolder(settings.var_dir.resolve())
    (folder.path / "log").mkdir(parents=True, exist_ok=True)
    folder.make_sockets_folder()
    environment = make_environment(settings, folder)
    services = programs.services(settings, folder, environment)
    supervisor.start(folder, environment, services)
    rpc = supervisor.connect(folder)
    for program in services:
        if program.name in names:
            rpc.startProcess(f"{program.group}:{program.name}", False)
            supervisor.wait_until_ready(rpc, program, folder)
    return environment


if __name__ == "__main__":
    main()
