"""All of a compose stack that cannot be made again, in one file; and a stack out of that file.

    python3 -m scripts.backup                             # into the folder backups
    python3 -m scripts.backup --restore backups/stack.tar  # into a stack that holds nothing yet

In it: Label Studio's database and files, the model versions, and .env, whose secrets belong to
that database. Images and weights are downloaded again. Standard library alone.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from backend.base.command_line import CommandParser, run
from scripts.docker import DockerError, compose
from scripts.env_file import ENV, MAKERS, read_env, write_missing

DATABASE, MODELS, MEDIA, MANIFEST = "database.dump", "models.tar", "media.tar", "manifest.json"
POSTGRES = ("-U", "labelstudio", "-d", "labelstudio")
LABEL_STUDIO_FILES = "/label-studio/data"
TABLES = "select count(*) from information_schema.tables where table_schema = 'public'"
READY_WITHIN_S = 120
LABEL_STUDIO_VERSION = "from importlib.metadata import version; print(version('label-studio'))"
# These stand in the database as well: with others Label Studio would not let us in.
ACCOUNT = ("LABEL_STUDIO_API_KEY", "LABEL_STUDIO_PASSWORD")


def main() -> int:
    """Back up, or restore; 1 where something is in the way."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("backups"))
    parser.add_argument("--restore", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    os.umask(0o077)  # secrets, images and labels: their owner's alone
    try:
        if arguments.restore:
            restore(arguments.restore)
            print("restored: now start it (docker compose up -d)")
        else:
            print(f"{back_up(arguments.folder)}: holds secrets, keep it safe")
    except (DockerError, OSError, tarfile.TarError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def back_up(folder: Path) -> Path:
    """One file with everything, beside the running stack; its path comes back."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"tightloop-{time.strftime('%Y-%m-%dT%H%M%S')}.tar"
    with tempfile.TemporaryDirectory(dir=folder) as draft:
        parts = Path(draft)
        # The versions before the database: one that is promoted in between is then known to nobody,
        # and the clock re-orders by the one that is.
        _say("packing the model versions")
        with (parts / MODELS).open("wb") as out:
            compose("exec", "-T", "backend", "python", "-m", "scripts.pack_models", stdout=out)
        _say("dumping the database")
        with (parts / DATABASE).open("wb") as out:
            compose("exec", "-T", "postgres", "pg_dump", "-Fc", *POSTGRES, stdout=out)
        _say("packing Label Studio's files")
        # tar ends with 1 if a file changed meanwhile: an upload that the dump does not know yet.
        pack = f"tar -c -C {LABEL_STUDIO_FILES} . || [ $? -eq 1 ]"
        with (parts / MEDIA).open("wb") as out:
            compose("exec", "-T", "label-studio", "sh", "-c", pack, stdout=out)
        (parts / ENV).write_bytes(ENV.read_bytes())
        (parts / MANIFEST).write_text(json.dumps(_manifest(), indent=2))
        with tarfile.open(parts / "all", "w") as tar:
            for name in (MANIFEST, str(ENV), DATABASE, MODELS, MEDIA):
                tar.add(parts / name, name)
        (parts / "all").replace(file)
    return file


def restore(file: Path) -> None:
    """Fill an empty stack, left stopped; DockerError, and no change, where it is not empty."""
    is_new_env = not ENV.exists()
    with tempfile.TemporaryDirectory(dir=file.parent) as folder, tarfile.open(file) as tar:
        parts = Path(folder)
        for name in (MANIFEST, str(ENV), DATABASE, MODELS, MEDIA):
            try:
                tar.extract(name, parts)
            except KeyError:
                raise DockerError(f"{file} is no backup of ours: it holds no {name}") from None
        _take_env(parts / ENV)  # without it compose would not even say what runs
        try:
            _check_can_be_filled(_version_in(parts / MANIFEST))
        except BaseException:
            if is_new_env:
                ENV.unlink()
            raise
        try:
            _say("unpacking the model versions and Label Studio's files")
            _unpack(parts / MODELS, "backend", "/models")
            _unpack(parts / MEDIA, "label-studio", LABEL_STUDIO_FILES)
            _say("restoring the database")
            with (parts / DATABASE).open("rb") as dump:
                compose("exec", "-T", "postgres", "pg_restore", "--no-owner", "--exit-on-error",
                        "--single-transaction", *POSTGRES, stdin=dump)  # fmt: skip
        except BaseException:
            compose("down", "-v")  # it was empty: back to that, so that the next try can begin
            raise
        compose("stop", "postgres")


def _say(step: str) -> None:
    """Each may take minutes, and nobody can count how many."""
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
        raise DockerError(f"the backup's {manifest.name} is damaged: take another one") from None


def _check_can_be_filled(version: str) -> None:
    """DockerError unless the stack is stopped, empty, and new enough; PostgreSQL runs after it."""
    if compose("ps", "--services", "--filter", "status=running"):
        raise DockerError("this stack runs: restore into one that was never started")
    _say("building the image, where it is not there yet")
    compose("build", "backend")
    _check_not_older(version)
    compose("up", "-d", "postgres")
    try:
        _check_empty()
    except BaseException:
        compose("stop", "postgres")
        raise


def _check_not_older(version: str) -> None:
    """Label Studio migrates a database forward alone."""
    here = compose("run", "--rm", "--no-deps", "-T", "--entrypoint", "python", "label-studio",
                   "-c", LABEL_STUDIO_VERSION)  # fmt: skip
    if _numbers(here) < _numbers(version):
        raise DockerError(
            f"the backup is of Label Studio {version}, and here is {here}: set LABEL_STUDIO_IMAGE "
            "to that version or a newer one, in docker-compose.yml or in .env if it is pinned there"
        )


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def _take_env(kept: Path) -> None:
    """The backup's .env where there is none, with what an older release did not need yet;
    DockerError where the one here has other secrets.
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
            f"{ENV} has another {' and '.join(missing or other)} than the backup: "
            "move it away, and the backup brings its own"
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
    if tables != "0" or _files("backend", "/models") or _files("label-studio", LABEL_STUDIO_FILES):
        raise DockerError(
            "this stack holds labels or models already: keep them (`make backup`), then empty it "
            "(`docker compose down -v`)"
        )


def _files(service: str, folder: str) -> str:
    return compose("run", "--rm", "--no-deps", "-T", "--entrypoint", "ls", service, "-A", folder)


def _unpack(part: Path, service: str, folder: str) -> None:
    with part.open("rb") as tar:
        compose("run", "--rm", "--no-deps", "-T", "--entrypoint", "tar", service,
                "-x", "-C", folder, stdin=tar)  # fmt: skip


if __name__ == "__main__":
    run(main)
