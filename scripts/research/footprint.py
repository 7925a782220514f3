"""Measure what a stack uses: memory, CPU, Redis, project.db, folders, Label Studio's tables.

Sizes are in kB, memory is in MB, and everything else is a count.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
from redis import Redis

from backend.store import project_db
from backend.store.body_meta import BODY_NAME
from backend.store.project_record import project_root
from backend.store.version_meta import VERSION_NAME, body_of
from scripts.local.folder import StackFolder
from scripts.local.programs import postgres_server

kB = 1000
Section = dict[str, float]  # what was measured, and how much of it there is
Footprint = dict[str, Section]
SIZES = "SELECT relname, pg_total_relation_size(relid) / 1000, n_dead_tup FROM pg_stat_user_tables"
FOLDERS = ("data", "label-studio", "log", "postgres", "postgres/pg_wal", "redis")
# Keys in Redis that differ only in parts like these are of one kind.
VARIABLE_PARTS = {
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}": "*",
    r"[0-9a-f]{32}": "*",
    r"\d+": "N",
}


def measure(var: Path, rest_s: float) -> Footprint:
    """Measure everything that the running stack in this folder uses, after `rest_s` seconds."""
    info = StackFolder(var).read()
    cpu = resting_cpu(info["pids"], rest_s)
    root = project_root(Path(info["model_dir"]), info["project_id"])
    rows, sizes, dead = label_studio_tables(var)
    kinds_kb, kinds = model_folder(root)
    return {
        "memory, MB": memory(info["pids"]),
        "CPU at rest, % of a core": cpu,
        "pages, kB": {
            path: len(httpx.get(f"{info['backend_url']}{path}", trust_env=False).content) / kB
            for path in ("/status", "/dashboard")
        },
        "Redis": redis_figures(info["redis_url"]),
        "project.db, rows": store_rows(root),
        "model folder, kB": kinds_kb,
        "model folder, files": kinds,
        "other folders, kB": {name: folder_kb(var / name) for name in FOLDERS},
        "logs, kB": {path.name: _kb(path) for path in sorted((var / "log").iterdir())},
        "Label Studio, rows": rows,
        "Label Studio, kB": sizes,
        "Label Studio, dead rows": dead,
    }


def memory(pids: Mapping[str, int]) -> Section:
    """Return the memory of each program with its children, and of all programs together.

    Pages of files, such as libraries, are left out: how many of them count depends on what else
    runs on the machine.
    """
    programs = {name: _memory_mb(pid) for name, pid in pids.items() if name != "supervisord"}
    return programs | {"together": _memory_mb(pids["supervisord"])}  # it started all others


def _memory_mb(pid: int) -> float:
    n_kb = 0
    with suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            text = Path(f"/proc/{each.pid}/smaps_rollup").read_text()
            n_kb += sum(map(int, re.findall(r"^Pss_(?:Anon|Shmem): +(\d+) kB", text, re.MULTILINE)))
    return n_kb / 1024


def resting_cpu(pids: Mapping[str, int], seconds: float) -> Section:
    """Return each program's CPU use while the stack rests, children included, in % of a core."""
    before = {name: _cpu_s(pid) for name, pid in pids.items()}
    time.sleep(seconds)
    return {
        name: 100 * (_cpu_s(pid) - before[name]) / seconds
        for name, pid in pids.items()
        if name != "supervisord"
    }


def _cpu_s(pid: int) -> float:
    """Return the CPU time of a process and its children so far."""
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()  # these include only children that have ended
        own = times.user + times.system + times.children_user + times.children_system
        return own + sum(_cpu_s(child.pid) for child in process.children())
    except psutil.NoSuchProcess:  # the process's time was just added to its parent's
        return 0.0


def redis_figures(url: str) -> Section:
    """Return the memory that Redis uses, and how many keys it has, by kind."""
    with Redis.from_url(url, decode_responses=True) as connection:
        used = connection.info("memory")["used_memory"]
        keys = Counter(map(kind_of_key, connection.scan_iter()))
    return {"used memory, kB": used / kB} | {f"keys {kind}": n for kind, n in sorted(keys.items())}


def kind_of_key(key: str) -> str:
    """Return a Redis key with a placeholder for each number and random part."""
    for pattern, placeholder in VARIABLE_PARTS.items():
        key = re.sub(pattern, placeholder, key)
    return key


def store_rows(root: Path) -> Section:
    """Count the rows of each table of project.db."""
    tables = project_db.select(
        root, "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1"
    )
    return {
        name: project_db.select(root, f"SELECT count(*) FROM {name}")[0][0] for (name,) in tables
    }


def label_studio_tables(var: Path) -> tuple[Section, Section, Section]:
    """Return the rows of each table of Label Studio, the sizes in kB, and the dead rows.

    Tables without rows are left out.
    """
    found = [line.split("|") for line in _query(var, SIZES)]
    names = sorted(name for name, _, _ in found)
    counts = " UNION ALL ".join(f"SELECT '{name}', count(*) FROM \"{name}\"" for name in names)
    rows = {
        name: float(n) for name, n in (line.split("|") for line in _query(var, counts)) if int(n)
    }
    sizes = {name: float(size) for name, size, _ in found if name in rows}
    dead = {name: float(n) for name, _, n in found if int(n)}
    return rows, sizes, dead


def _query(var: Path, query: str) -> list[str]:
    sockets = StackFolder(var).sockets / "postgres"
    psql = postgres_server(var / "postgres").bin_path / "psql"
    command = [str(psql), "-h", str(sockets), "-U", "postgres", "-Atc", query, "postgres"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def model_folder(root: Path) -> tuple[Section, Section]:
    """Return the size in kB and the number of files in a project's folder, by kind of file."""
    sizes: dict[str, list[float]] = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            sizes.setdefault(kind_of_file(path.relative_to(root)), []).append(_kb(path))
    return (
        {kind: sum(found) for kind, found in sizes.items()},
        {kind: len(found) for kind, found in sizes.items()},
    )


def kind_of_file(path: Path) -> str:
    """Return the kind of a file, given its path in a project's folder."""
    folder = path.parts[0]
    if VERSION_NAME.fullmatch(folder):
        kind = "full versions" if body_of(folder) == folder else "heads"
        return f"{kind}: {path.name}"
    if BODY_NAME.fullmatch(folder):
        return f"adapted bodies: {path.name}"
    return path.name if folder == path.name else f"{folder}/"


def folder_kb(folder: Path) -> float:
    """Return the size of all files in a folder; files that are deleted meanwhile count as 0."""
    return sum(_kb(path) for path in folder.rglob("*"))


def _kb(path: Path) -> float:
    with suppress(FileNotFoundError):
        if path.is_file():
            return path.stat().st_size / kB
    return 0.0
