"""Back up a compose stack into one file, and fill an empty stack from such a file."""

from __future__ import annotations

import json
import re
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from scripts.compose.docker import DockerError, compose
from scripts.compose.env import ENV, MAKERS, read_env, write_missing

DATABASE, MODELS, MEDIA, MANIFEST = "database.dump", "models.tar", "media.tar", "manifest.json"
PARTS = (MANIFEST, str(ENV), DATABASE, MODELS, MEDIA)
POSTGRES = ("-U", "labelstudio", "-d", "labelstudio")
LABEL_STUDIO_FILES = "/label-studio/data"
TABLES = "select count(*) from information_schema.tables where table_schema = 'public'"
READY_WITHIN_S = 120
LABEL_STUDIO_VERSION = "from importlib.metadata import version; print(version('label-studio'))"
# The database holds these too: with other values Label Studio would refuse our requests.
ACCOUNT = ("LABEL_STUDIO_API_KEY", "LABEL_STUDIO_PASSWORD")


def back_up(folder: Path) -> Path:
    """Write a backup of the running stack into a folder; return the path of the file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"tightloop-{time.strftime('%Y-%m-%dT%H%M%S')}.tar"
    with tempfile.TemporaryDirectory(dir=folder) as draft:
        parts = Path(draft)
        # Versions come before the database, so that the database never names a version that the
        # backup lacks. The clock of the restored stack reorders the tasks by the current one.
        _print_step("packing the model versions")
        with (parts / MODELS).open("wb") as out:
            compose("exec", "-T", "backend", "python", "-m", "scripts.pack_models", stdout=out)
        _print_step("dumping the database")
        with (parts / DATABASE).open("wb") as out:
            compose("exec", "-T", "postgres", "pg_dump", "-Fc", *POSTGRES, stdout=out)
        _print_step("packing Label Studio's files")
        # tar exits with 1 if a file changed meanwhile: an upload that is not in the dump yet.
        pack = f"tar -c -C {LABEL_STUDIO_FILES} . || [ $? -eq 1 ]"
        with (parts / MEDIA).open("wb") as out:
            compose("exec", "-T", "label-studio", "sh", "-c", pack, stdout=out)
        (parts / ENV).write_bytes(ENV.read_bytes())
        (parts / MANIFEST).write_text(json.dumps(_manifest(), indent=2))
        with tarfile.open(parts / "all", "w") as tar:
            for name in PARTS:
                tar.add(parts / name, name)
        (parts / "all").replace(file)
    return file


def restore(file: Path) -> None:
    """Fill an empty stack and leave it stopped; DockerError, and no change, if it is not empty."""
    is_new_env = not ENV.exists()
    with tempfile.TemporaryDirectory(dir=file.parent) as folder, tarfile.open(file) as tar:
        parts = Path(folder)
        for name in PARTS:
            try:
                tar.extract(name, parts)
            except KeyError:
                raise DockerError(
                    f"{file} is not a backup of Tightloop: it holds no {name}"
                ) from None
        _adopt_env(parts / ENV)  # compose needs it even to list what runs
        try:
            _check_can_be_filled(_version_in(parts / MANIFEST))
        except BaseException:
            if is_new_env:
                ENV.unlink()
            raise
        try:
            _print_step("unpacking the model versions and Label Studio's files")
            _unpack(parts / MODELS, "backend", "/models")
            _unpack(parts / MEDIA, "label-studio", LABEL_STUDIO_FILES)
            _print_step("restoring the database")
            with (parts / DATABASE).open("rb") as dump:
                compose("exec", "-T", "postgres", "pg_restore", "--no-owner", "--exit-on-error",
                        "--single-transaction", *POSTGRES, stdin=dump)  # fmt: skip
        except BaseException:
            compose("down", "-v")  # empty it again, so that the next try can begin
            raise
        compose("stop", "postgres")


def _print_step(step: str) -> None:
    """Name a step that may take minutes."""
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


def _check_can_be_filled(version: str) -> None:
    """Start PostgreSQL; DockerError unless the stack is stopped, empty and new enough."""
    if compose("ps", "--services", "--filter", "status=running"):
        raise DockerError("this stack is running: restore into one that was never started")
    _print_step("building the image, unless it exists")
    compose("build", "backend")
    _check_not_older(version)
    compose("up", "-d", "postgres")
    try:
        _check_empty()
    except BaseException:
        compose("stop", "postgres")
        raise


def _check_not_older(version: str) -> None:
    """DockerError if Label Studio is older here: it can only upgrade a database."""
    here = compose("run", "--rm", "--no-deps", "-T", "--entrypoint", "python", "label-studio",
                   "-c", LABEL_STUDIO_VERSION)  # fmt: skip
    if _numbers(here) < _numbers(version):
        raise DockerError(
            f"the backup is from Label Studio {version}, but this stack has {here}: set "
            "LABEL_STUDIO_IMAGE to that version or a newer one (in .env if it is pinned there, "
            "otherwise in docker-compose.yml)"
        )


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def _adopt_env(kept: Path) -> None:
    """Use the backup's .env if there is none here, and add secrets that older releases lacked.

    DockerError if the one here has other secrets.
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
            "use that of the backup"
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
            "this stack holds labels or models already: back them up (`make backup`), then delete "
            "them (`docker compose down -v`)"
        )


def _files(service: str, folder: str) -> str:
    return compose("run", "--rm", "--no-deps", "-T", "--entrypoint", "ls", service, "-A", folder)


def _unpack(part: Path, service: str, folder: str) -> None:
    with part.open("rb") as tar:
        compose("run", "--rm", "--no-deps", "-T", "--entrypoint", "tar", service,
                "-x", "-C", folder, stdin=tar)  # fmt: skip
