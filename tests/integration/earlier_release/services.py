"""Start PostgreSQL, Redis and Label Studio without our processes, which would create a project.

    python -m tests.integration.earlier_release.services   # `python -m scripts.up down` stops it

It is a separate process because its settings come from the environment, as in `scripts.up`.
"""

from __future__ import annotations

import os

from scripts.local import programs, supervisor
from scripts.local.folder import StackFolder
from scripts.local.settings import StackSettings, make_environment


def main() -> None:
    """Return when PostgreSQL, Redis and Label Studio are ready; the backend stays stopped."""
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
        if program.name != "backend":
            rpc.startProcess(f"{program.group}:{program.name}", False)
            supervisor.wait_until_ready(rpc, program, folder)


if __name__ == "__main__":
    main()
