"""Model versions on disk: save, promote, roll back, load.

    MODEL_DIR/p<project>/
        project.json      what set-up chose: pool, weights, classes
        project.db        what is known besides weights: see store.py
        current           the version in service, and those before it
        r0007/            model.safetensors, meta.json, and what pool_scores keeps of its answers;
                          of a pruned version meta.json alone
        r0007h02/         the second head on the body of r0007: the same, of its last layer alone
        embeddings/       of pool, validation and test, by body; a cache of pool_scores
        *.lock            held by the process that trains or pushes

All JSON is read by pydantic, which refuses what is nested too deep and text that is no Unicode.
A reader sees the old or the new, never half: everything is written beside its place and renamed.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
)

from backend.base.errors import BrokenVersionError, ModelFolderError, NoModelError, SettingsError
from backend.network import resnet_layout
from backend.network.resnet_layout import HEAD_TENSORS
from backend.store import tensor_file
from backend.store.version_meta import (
    VERSION_NAME,
    Classes,
    Meta,
    ProjectId,
    VersionName,
    body_of,
)

log = logging.getLogger(__name__)

State = dict[
    str, NDArray[Any]
]  # a state_dict as arrays, so that reading the registry needs no torch

PROMOTIONS_KEPT = 500
LOCK_POLL_S = 0.2


class ProjectRecord(BaseModel):
    """What set-up chose for a project; choices made by `auto` stick through it."""

    model_config = ConfigDict(frozen=True)

    project_id: ProjectId
    title: str
    label_studio_url: str
    project_created_at: str
    pool: str
    weights: str
    seed: int = Field(ge=0)
    classes: Classes
    pool_notice: str = ""
    weights_notice: str = ""


class Promotion(BaseModel):
    """That a version was put in service, and when (ISO 8601, UTC)."""

    model_config = ConfigDict(frozen=True)

    version: VersionName
    promoted_at: AwareDatetime


class _Current(BaseModel):
    promotions: list[Promotion]  # newest first


def project_root(model_dir: Path, project_id: int) -> Path:
    """The folder of one project."""
    return model_dir / f"p{project_id}"


def known_projects(model_dir: Path) -> list[int]:
    """Ids of the projects that set-up has recorded; ModelFolderError where `model_dir` cannot be
    read.
    """
    with folder_errors(model_dir):
        return sorted(
            int(entry.name[1:])
            for entry in model_dir.iterdir()
            if re.fullmatch(r"p[0-9]{1,18}", entry.name) and (entry / "project.json").exists()
        )


def pick_project(model_dir: Path, asked: int | None) -> int:
    """The project that was asked for, or the only one there is; SettingsError where that is
    unclear.
    """
    known = known_projects(model_dir)
    if asked in known:
        return asked
    if not known:
        raise SettingsError("no project is set up yet: run `python -m scripts.setup_project`")
    if asked is None and len(known) == 1:
        return known[0]
    raise SettingsError(f"say which project with --project: {', '.join(map(str, known))}")


def write_record(root: Path, record: ProjectRecord) -> None:
    """Keep what set-up chose."""
    _write(root / "project.json", record.model_dump_json(indent=2))


def read_record(root: Path) -> ProjectRecord | None:
    """What set-up chose, or None before set-up; ModelFolderError where that cannot be read."""
    path = root / "project.json"
    with folder_errors(root):
        if not path.exists():
            return None
        try:
            return ProjectRecord.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ModelFolderError(
                f"{path} is damaged ({error.error_count()} bad fields): move it away and run "
                "`python -m scripts.setup_project` again; versions and labels stay"
            ) from None


def save(root: Path, state: State, meta: Meta) -> Meta:
    """Write a version, whole or not at all; the metadata comes back with the weights' sha256."""
    final = root / meta.version
    draft = root / f".draft-{meta.version}-{os.getpid()}"
    with folder_errors(root):
        if final.exists():
            raise ModelFolderError(f"{final} exists already: versions are never overwritten")
        for leftover in root.glob(f".draft-{meta.version}-*"):  # of one that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        draft.mkdir(parents=True)
        try:
            weights = draft / "model.safetensors"
            tensor_file.write_tensors(weights, state)
            meta = meta.model_copy(update={"sha256": _sha256(weights)})
            _write(draft / "meta.json", meta.model_dump_json(indent=2))
            draft.rename(final)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return meta


def read_meta(root: Path, version: str) -> Meta:
    """Return a version's metadata; BrokenVersionError says what is wrong with the folder.

    Of the weights only the header is read: names, types and shapes. A pruned version has none.
    """
    meta = _read_own_meta(root, version)
    if meta.pruned_at is None:
        try:
            _check_weights(root, meta)
        except BrokenVersionError:
            # Pruning marks a version before it deletes anything: was it marked in between?
            meta = _read_own_meta(root, version)
            if meta.pruned_at is None:
                raise
    return meta


def _read_own_meta(root: Path, version: str) -> Meta:
    path = root / version / "meta.json"
    try:
        meta = _parse_meta(path, *_stamp(path))
    except FileNotFoundError:
        raise BrokenVersionError(f"{version} has no meta.json: half-written, or not ours") from None
    except ValidationError as error:
        raise BrokenVersionError(f"{version}/meta.json is damaged ({_describe(error)})") from None
    except OSError as error:
        raise BrokenVersionError(f"{version}/meta.json cannot be read: {error.strerror}") from None
    if meta.version != version:
        raise BrokenVersionError(f"{version}/meta.json speaks of {meta.version}: a foreign folder")
    if meta.is_head:
        # One mark, the body's, prunes it with all its heads at once.
        with suppress(BrokenVersionError):
            body = _read_own_meta(root, meta.body)
            meta = meta.model_copy(update={"pruned_at": meta.pruned_at or body.pruned_at})
    return meta


def _check_weights(root: Path, meta: Meta) -> None:
    version = meta.version
    for name in (version, meta.body):
        if not (root / name / "model.safetensors").is_file():
            raise BrokenVersionError(f"{name} has no model.safetensors: half-written, or not ours")
    if meta.is_head:
        read_meta(root, meta.body)
    weights = root / version / "model.safetensors"
    try:
        fault = _header_fault(weights, len(meta.classes), meta.is_head, *_stamp(weights))
    except OSError as error:
        fault = f"cannot be read: {error.strerror or error}"
    if fault:
        raise BrokenVersionError(f"{version}/model.safetensors {fault}")


def mark_pruned(root: Path, version: str, now: datetime) -> None:
    """Say in a version's meta.json that its weights and scores may be deleted, its heads' too."""
    meta = _read_own_meta(root, version).model_copy(update={"pruned_at": now})
    _write(root / version / "meta.json", meta.model_dump_json(indent=2))


# A status lists all versions, every few seconds, and their files never change.
@lru_cache(maxsize=4096)
def _parse_meta(path: Path, _mtime_ns: int, _size: int) -> Meta:
    return Meta.model_validate_json(path.read_bytes())


@lru_cache(maxsize=4096)
def _header_fault(path: Path, n_classes: int, is_head: bool, _mtime_ns: int, _size: int) -> str:
    """Say by its header why a file is not a ResNet-18, or its last layer; "" if it is."""
    find_fault = resnet_layout.find_head_fault if is_head else resnet_layout.find_fault
    try:
        fault = find_fault(tensor_file.read_header(path), n_classes)
    except ValueError as error:
        return f"is damaged: {error}"
    return f"is not a ResNet-18 of {n_classes} classes: {fault}" if fault else ""


def _stamp(path: Path) -> tuple[int, int]:
    """What was read of a file holds until these change: when it was written, and its size."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def _describe(error: ValidationError) -> str:
    """The first field that is wrong and why, without what stands there."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where!r:.80}: {first['msg']}" if where else f"not JSON: {first['msg']}"


def versions(root: Path) -> tuple[list[Meta], dict[str, str]]:
    """All sound versions, oldest first, the pruned ones among them, and the broken ones with the
    reason.

    Weights are read of the version in service alone, and once: see `current`.
    """
    sound: list[Meta] = []
    broken: dict[str, str] = {}
    passed_over: dict[str, str] = {}
    with suppress(ModelFolderError):  # a damaged `current` has errors of its own
        passed_over = _find_current(root)[1]
    for name in version_names(root):
        try:
            meta = read_meta(root, name)
        except BrokenVersionError as error:
            broken[name] = str(error)
        else:
            if fault := passed_over.get(name) or passed_over.get(meta.body):
                broken[name] = fault
            else:
                sound.append(meta)
    return sound, broken


def last_round(root: Path) -> int:
    """The highest round that has a folder, sound or not; 0 before the first."""
    return max((_place(name)[0] for name in version_names(root)), default=0)


def next_head(root: Path, body: str) -> str:
    """The name of the next head on a body."""
    # Names of deleted ones are not given again: open tasks carry their predictions.
    names = {*version_names(root), *(p.version for p in promotions(root))}
    heads = [_place(name)[1] for name in names if body_of(name) == body]
    return f"{body}h{max(heads, default=0) + 1:02d}"


def round_of(version: str) -> int:
    """The round that made a version's body."""
    return _place(version)[0]


def body_key(state: State) -> str:
    """A fingerprint of all weights but the last layer's."""
    digest = hashlib.sha256()
    for name in sorted(state.keys() - set(HEAD_TENSORS)):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(state[name]).tobytes())
    return digest.hexdigest()[:16]


def load_state(root: Path, version: str) -> State:
    """Load a version's weights, of a head with its body; BrokenVersionError unless they match their
    sha256, are a ResNet-18's and hold finite numbers, NoModelError if they were pruned.
    """
    own = load_own_state(root, version)
    body = body_of(version)
    if body == version:
        return own
    state = load_own_state(root, body)
    weight = HEAD_TENSORS[0]
    if own[weight].shape[1] != state[weight].shape[1]:
        raise BrokenVersionError(f"{version}/model.safetensors is not a last layer of {body}")
    return state | own


def load_own_state(root: Path, version: str) -> State:
    """The same, of a head its last layer alone."""
    meta = read_meta(root, version)
    if meta.pruned_at is not None:
        raise NoModelError(
            f"the weights of {version} were pruned on {meta.pruned_at:%Y-%m-%d}: choose another "
            "version; a higher KEEP_VERSIONS keeps more of them (0: all)"
        )
    path = root / version / "model.safetensors"
    try:
        if _sha256(path) != meta.sha256:
            raise BrokenVersionError(f"{version}/model.safetensors differs from its sha256")
        _, state = tensor_file.read_tensors(path)
    except (OSError, ValueError) as error:
        raise BrokenVersionError(f"{version}/model.safetensors cannot be read: {error}") from None
    if name := tensor_file.find_not_finite(state):
        raise BrokenVersionError(
            f"{version}/model.safetensors is damaged: {name} holds NaN or infinite numbers"
        )
    return state


def promotions(root: Path) -> list[Promotion]:
    """What was put in service and when, newest first; empty before the first."""
    path = root / "current"
    with folder_errors(root):
        if not path.exists():
            return []
        try:
            return _Current.model_validate_json(path.read_bytes()).promotions
        except ValidationError:
            raise ModelFolderError(
                f"{path} is damaged: put a version back in service with "
                "`python -m scripts.models promote <version>`"
            ) from None


def current(root: Path) -> Meta | None:
    """Return the version in service, or None before the first: the last promoted one that is sound.

    Its weights are read once in each process, so that nobody finds them damaged when it is late.
    """
    return _find_current(root)[0]


def _find_current(root: Path) -> tuple[Meta | None, dict[str, str]]:
    """The same, and what is wrong with versions that were promoted since."""
    passed_over: dict[str, str] = {}
    for promotion in promotions(root):
        version = promotion.version
        try:
            meta = read_meta(root, version)
            if meta.pruned_at is not None:
                continue  # superseded long ago
            if fault := _weights_fault(root, version, _weights_stamps(root, meta)):
                raise BrokenVersionError(fault)
        except BrokenVersionError as error:
            passed_over[version] = str(error)
            _log_passed_over(root.name, str(error))
            continue
        return meta, passed_over
    return None, passed_over


@lru_cache(maxsize=256)
def _weights_fault(root: Path, version: str, _stamps: Hashable) -> str:
    try:
        load_state(root, version)
    except BrokenVersionError as error:
        if isinstance(error.__context__, OSError):
            raise  # not kept: it may be over in a moment
        return str(error)
    return ""


def _weights_stamps(root: Path, meta: Meta) -> Hashable:
    """What changes whenever the weights of a version should be read again."""
    parts = [meta, read_meta(root, meta.body)]
    try:
        return tuple((m.sha256, _stamp(root / m.version / "model.safetensors")) for m in parts)
    except OSError as error:
        raise BrokenVersionError(f"{meta.version} cannot be read: {error.strerror}") from None


@lru_cache(maxsize=256)
def _log_passed_over(project: str, fault: str) -> None:
    """Once in each process: whoever shows the status asks every two seconds."""
    log.error("%s: %s; serving the version before it", project, fault)


def promote(root: Path, version: str, now: datetime | None = None) -> Meta:
    """Put a version in service from the next request on; rolling back is promoting an older one."""
    if not VERSION_NAME.fullmatch(version) or not (root / version).is_dir():
        known = ", ".join(version_names(root)) or "none yet"
        raise NoModelError(f"no version {version!r} in {root}: there are {known}")
    load_state(root, version)
    meta = read_meta(root, version)
    try:
        before = promotions(root)
    except ModelFolderError:
        before = []  # a damaged file is mended by this very promotion
    entry = Promotion(version=version, promoted_at=now or datetime.now(UTC))
    kept = [entry, *before][:PROMOTIONS_KEPT]
    _write(root / "current", _Current(promotions=kept).model_dump_json(indent=2))
    return meta


@contextmanager
def hold(
    root: Path,
    name: Literal["train", "head", "push", "promote", "review"],
    wait_s: float | None = None,
) -> Iterator[None]:
    """Hold one of the project's locks; the operating system gives it back with the process.

    Waits as long as it takes, or `wait_s` seconds and then raises ModelFolderError.
    """
    path = root / f"{name}.lock"
    give_up = None if wait_s is None else time.monotonic() + wait_s
    with folder_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if give_up is not None and time.monotonic() > give_up:
                    raise ModelFolderError(
                        f"{path} is held by another process: wait for it to end and try again"
                    ) from None
                time.sleep(LOCK_POLL_S)
        yield


def version_names(root: Path) -> list[str]:
    """All folders of versions, sound or not, in the order in which versions were made."""
    with folder_errors(root):
        if not root.is_dir():
            return []
        names = (entry.name for entry in root.iterdir() if entry.is_dir())
        return sorted((n for n in names if VERSION_NAME.fullmatch(n)), key=_place)


def _place(version: str) -> tuple[int, int]:
    """Round and number of head (0: the body itself): the order in which versions were made."""
    found = VERSION_NAME.fullmatch(version)
    return (int(found["round"]), int(found["head"] or 0)) if found else (0, 0)


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.draft-{os.getpid()}")
    with folder_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)


@contextmanager
def folder_errors(folder: Path) -> Iterator[None]:
    """Turn what the operating system refuses into a ModelFolderError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.filename:
            reason = f"{error.filename}: {reason}"
        raise ModelFolderError(
            f"the model folder {folder} cannot be used ({reason}): "
            "check MODEL_DIR, its permissions and the free space"
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
