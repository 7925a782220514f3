"""Start what a stack on one machine rests on, and none of our processes: those would find no
project, and make one.

    python -m tests.integration.earlier_release.services   # `python -m scripts.up down` stops it

A process of its own, as `scripts.up` is one: its settings come from the environment.
"""

from __future__ import annotations

import os

from scripts import up

NAMES = ("postgres", "redis", "label-studio")


def main() -> None:
    """Return when all of them are ready."""
    os.umask(0o077)
    settings = up._load_settings()
    var = settings.var_dir.resolve()
    (var / "log").mkdir(parents=True, exist_ok=True)
    run = up._run_folder(var)
    environment = up._environment(settings, var, run)
    services = [p for p in up._programs(settings, var, environment)[0] if p.name in NAMES]
    up._prepare_postgres(var / "postgres", run / "postgres")
    up._write_redis_config(settings, var / "redis", environment)
    up._start_supervisord(var, run, environment, services)
    supervisor = up._supervisor(var)
    for program in services:
        supervisor.startProcess(program.name, False)
        up._wait_until_ready(supervisor, program, var)


if __name__ == "__main__":
    main()
