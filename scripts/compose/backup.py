"""Back up a compose stack to one file, and fill an empty stack from such a file."""

from __future__ import annotations

import json
import re
import sys
import tarfile
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from scripts.compose.docker import DockerError, compose
from scripts.compose.env import ENV, MAKERS, read_env, write_missing

DATABASE, MODELS, MEDIA, MANIFEST = "database.dump", "models.tar", "media.tar", "manifest.json"
PARTS = (MANIFEST, str(ENV), DATABASE, MODELS, MEDIA)
POSTGRES = ("-U", "labelstudio", "-d", "labelstudio")
LABEL_STUDIO_FILES = "/label-studio/data"
TABLES = "select count(*) from information_schema.tables where table_schema = 'public'"
READY_WITHIN_S = 120
LABEL_STUDIO_VERSION = "from importlib.metadata import version; print(version('label-studio'))"
# The database contains the same secrets; if they differ, Label Studio refuses our requests.
ACCOUNT = ("LABEL_STUDIO_API_KEY", "LABEL_STUDIO_PASSWORD")


def back_up(folder: Path) -> Path:
    """Back up the running stack to a file in a folder; return the file's path."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"tightloop-{time.strftime('%Y-%m-%dT%H%M%S')}.tar"
    with tempfile.TemporaryDirectory(dir=folder) as draft:
        parts = Path(draft)
        # Save the versions first. If a version is promoted before the database is dumped, the
        # backup lacks this version, and after a restore, the clock reorders the tasks by an older
        # version.
        pack_models = ("python", "-m", "scripts.pack_models")
        _save(parts / MODELS, "packing the model versions", "backend", *pack_models)
        dump = ("pg_dump", "-Fc", *POSTGRES)
        _save(parts / DATABASE, "dumping the database", "postgres", *dump)
        # tar exits with 1 if a file changed while it was read. Only a new upload can change while
        # tar runs, and the dump does not refer to new uploads.
        pack_files = ("sh", "-c", f"tar -c -C {LABEL_STUDIO_FILES} . || [ $? -eq 1 ]")
        _save(parts / MEDIA, "packing Label Studio's files", "label-studio", *pack_files)
        (parts / ENV).write_bytes(ENV.read_bytes())
        (parts / MANIFEST).write_text(json.dumps(_manifest(), indent=2))
        with tarfile.open(parts / "all", "w") as tar:
            for name in PARTS:
                tar.add(parts / name, name)
        (parts / "all").replace(file)
    return file


def _save(part: Path, step: str, service: str, *command: str) -> None:
    """Run a command in a service's container, and write its output to a file."""
    _print_step(step)
    with part.open("wb") as out:
        compose("exec", "-T", service, *command, stdout=out)


def restore(file: Path) -> None:
    """Fill an empty stack with a backup, and leave the stack stopped.

    Raises DockerError, and changes nothing, if the stack is not empty.
    """
    is_new_env = not ENV.exists()
    with (
        tempfile.TemporaryDirectory(dir=file.parent) as folder,
        tarfile.open(file) as tar,
        ExitStack() as undo,
    ):
        parts = Path(folder)
        for name in PARTS:
            try:
                tar.extract(name, parts)
            except KeyError:
                raise DockerError(
                    f"{file} is not a backup of Tightloop: it contains no {name}"
                ) from None
        _adopt_env(parts / ENV)  # compose needs .env even to list running containers
        if is_new_env:
            undo.callback(ENV.unlink)
        if compose("ps", "--services", "--filter", "status=running"):
            raise DockerError("this stack is running: restore into a stack that was never started")
        _print_step("building the image, unless it exists")
        compose("build", "backend")
        _check_not_older(_version_in(parts / MANIFEST))
        undo.callback(compose, "stop", "postgres")
        compose("up", "-d", "postgres")
        _check_empty()

        undo.pop_all()
        undo.callback(compose, "down", "-v")  # empty the stack, so that the restore can be retried
        _print_step("unpacking the model versions and Label Studio's files")
        _unpack(parts / MODELS, "backend", "/models")
        _unpack(parts / MEDIA, "label-studio", LABEL_STUDIO_FILES)
        _print_step("restoring the database")
        with (parts / DATABASE).open("rb") as dump:
            compose("exec", "-T", "postgres", "pg_restore", "--no-owner", "--exit-on-error",
                    "--single-transaction", *POSTGRES, stdin=dump)  # fmt: skip
        undo.pop_all()
        compose("stop", "postgres")


def _print_step(step: str) -> None:
    """Print the name of the next step, which may take minutes."""
    print(step, file=sys.stderr, flush=True)


def _manifest() -> dict[str, str]:
    return {
        "made_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "postgres": compose("exec", "-T", "postgres", "postgres", "--version"),
        "label_studio": compose("exec", "-T", "label-studio", "python", "-c", LABEL_STUDIO_VERSION),
    }


def _version_in(manifest: Path) -> str:
    try:
        return str(json.loads(manifest.read_text())["label_studio"])
    except (ValueError, KeyError, TypeError):
        raise DockerError(f"the backup's {manifest.name} is damaged: use another backup") from None


def _check_not_older(version: str) -> None:
    """Raise DockerError if the backup is from a newer Label Studio.

    Label Studio can upgrade a database, but cannot downgrade it.
    """
    here = _run_in("label-studio", "python", "-c", LABEL_STUDIO_VERSION)
    if _numbers(here) < _numbers(version):
        raise DockerError(
            f"the backup is from Label Studio {version}, but this stack has {here}: set "
            "LABEL_STUDIO_IMAGE to that version or a newer one (in .env if it is pinned there, "
            "otherwise in docker-compose.yml)"
        )


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def _adopt_env(kept: Path) -> None:
    """Use the backup's .env if this stack has none.

    Adds the secrets that did not exist when the backup was made. Raises DockerError if the existing
    .env has different secrets.
    """
    if not ENV.exists():
        ENV.touch(mode=0o600)
        ENV.write_bytes(kept.read_bytes())
        write_missing(ENV)
        return
    here, there = read_env(ENV), read_env(kept)
    missing = [name for name in MAKERS if not here.get(name)]
    other = [name for name in ACCOUNT if here.get(name) != there.get(name)]
    if missing or other:
        raise DockerError(
            f"{ENV} and the backup differ in {' and '.join(missing or other)}: move {ENV} away to "
            f"use the backup's {ENV}"
        )


def _check_empty() -> None:
    give_up = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            tables = compose("exec", "-T", "postgres", "psql", "-tAc", TABLES, *POSTGRES,
                             "-h", "127.0.0.1")  # fmt: skip
            break
        except DockerError:
            if time.monotonic() > give_up:
                raise
            time.sleep(1)
    files = [
        _run_in("backend", "ls", "-A", "/models"),
        _run_in("label-studio", "ls", "-A", LABEL_STUDIO_FILES),
    ]
    if tables != "0" or any(files):
        raise DockerError(
            "this stack already contains labels or models: back them up (`make backup`), then "
            "delete them (`docker compose down -v`)"
        )


def _unpack(part: Path, service: str, folder: str) -> None:
    with part.open("rb") as tar:
        _run_in(service, "tar", "-x", "-C", folder, stdin=tar)


def _run_in(service: str, command: str, *arguments: str, stdin: IO[bytes] | None = None) -> str:
    """Run a command in a new container of a service, and return its output."""
    return compose("run", "--rm", "--no-deps", "-T", "--entrypoint", command, service, *arguments,
                   stdin=stdin)  # fmt: skip
