"""Model versions on disk: save, promote, roll back, load; and the few facts a project keeps beside
them.

    MODEL_DIR/p<project>/
        project.json      what set-up chose: pool, weights, classes
        seen.json         the annotations that the last finished round saw
        answers.json      all annotations as last read, so that only changes are asked for
        folds.json        what models that never saw them think of images asked without a model
        annotators.json   how each person did when labels were last learned from
        review.json       the project where doubtful labels are reviewed, and what came of it
        open.json         the images that were open when last ordered, with a picture each
        current           the version in service, and those before it
        r0007/            model.safetensors, meta.json; probabilities: {pool,validation}.safetensors
        r0007h02/         the second head on the body of r0007: the same, of its last layer alone
        embeddings/       of pool, validation and test, by body; a cache
        *.lock            held by the process that trains or pushes

A reader sees the old or the new, never half: everything is written beside its place and renamed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from backend.acquisition import Embeddings, Labels, Probs
from backend.errors import BrokenVersionError, ModelFolderError, NoModelError, SettingsError

log = logging.getLogger(__name__)

State = dict[
    str, NDArray[Any]
]  # a state_dict as arrays, so that reading the registry needs no torch

VERSION_NAME = re.compile(r"r(?P<round>\d{4,})(?:h(?P<head>\d{2,}))?")
PROMOTIONS_KEPT = 500
DRAFT_LIFETIME_S = 3600.0
HEADS_KEPT = 10  # beside those in service lately
OPEN_IMAGES_KEPT = 48
HEAD_TENSORS = ("fc.weight", "fc.bias")
LOCK_POLL_S = 0.2


class ProjectRecord(BaseModel):
    """What set-up chose for a project; choices made by `auto` stick through it."""

    model_config = ConfigDict(frozen=True)

    project_id: int
    title: str
    label_studio_url: str
    project_created_at: str
    pool: str
    weights: str
    seed: int
    classes: tuple[str, ...]
    pool_notice: str = ""
    weights_notice: str = ""


class Review(BaseModel):
    """Where the project's doubtful labels are reviewed."""

    model_config = ConfigDict(frozen=True)

    project_id: int  # of the review project
    collected: dict[str, str] = {}  # image -> the label that was made its ground truth


class Measured(BaseModel):
    """Accuracy and log loss on `images` held-out images."""

    model_config = ConfigDict(frozen=True)

    accuracy: float
    log_loss: float
    images: int


class Meta(BaseModel):
    """The readable side of a version: meta.json."""

    model_config = ConfigDict(frozen=True)

    version: str
    round: int
    created_at: str
    parent: str | None
    classes: tuple[str, ...]
    image_size: int
    pool: str
    weights: str
    strategy: str
    labels: int
    labels_per_class: dict[str, int]
    labels_fingerprint: str
    left_out: dict[str, int]
    validation: Measured
    test: Measured | None
    refused: str | None  # why it was not promoted by itself
    gate: Gate | None = None  # None for a first version, and where it was not made yet
    calibration: Calibration | None = None
    seconds: dict[str, float]
    torch: str
    device: str
    sha256: str = ""  # of model.safetensors; filled in by `save`
    body_key: str = ""  # which embeddings are its own; "" in versions made before these were kept

    @property
    def body(self) -> str:
        """The version whose body it has: its own name, unless it is a head."""
        return body_of(self.version)

    @property
    def is_head(self) -> bool:
        """Whether only its last layer is its own."""
        return self.body != self.version

    @property
    def temperature(self) -> float:
        """What its log-probabilities are divided by."""
        return self.calibration.temperature if self.calibration else 1.0


class Gate(BaseModel):
    """How a version compared with the one in service, on the same validation images."""

    model_config = ConfigDict(frozen=True)

    against: str
    p_value: float  # that it is no worse, by McNemar's exact test
    fell: int  # images that were right before and are wrong now
    rose: int
    note: str = ""  # why the comparison was not heeded


class Calibration(BaseModel):
    """What its probabilities were divided by, and how far confidence is off accuracy."""

    model_config = ConfigDict(frozen=True)

    temperature: float
    error_before: float  # expected calibration error on the validation split
    error_after: float
    test_error_after: float | None  # on images that the temperature was not fitted to


class Promotion(BaseModel):
    """That a version was put in service, and when (ISO 8601, UTC)."""

    model_config = ConfigDict(frozen=True)

    version: str
    promoted_at: datetime


class OpenImage(BaseModel):
    """An image that waits for an answer, as people may see it outside Label Studio."""

    model_config = ConfigDict(frozen=True)

    image_id: str
    confidence: float  # low = asked first
    guesses: tuple[tuple[str, float], ...]  # likeliest labels and their probability; () = no model
    is_again: bool  # it has an answer, and another person is asked, too
    picture: str  # a data: URI


class OpenImages(BaseModel):
    """What was open at a moment, in the order of asking; the first OPEN_IMAGES_KEPT of it."""

    model_config = ConfigDict(frozen=True)

    read_at: datetime
    images: tuple[OpenImage, ...]


@dataclass(frozen=True)
class PoolEmbeddings:
    """What one body makes of all images of a pool, (images, width) each."""

    pool: Embeddings
    validation: Embeddings
    test: Embeddings


class _Current(BaseModel):
    promotions: list[Promotion]  # newest first


def project_root(model_dir: Path, project_id: int) -> Path:
    """The folder of one project."""
    return model_dir / f"p{project_id}"


def known_projects(model_dir: Path) -> list[int]:
    """Ids of the projects that set-up has recorded; ModelFolderError where `model_dir` cannot be
    read.
    """
    with _folder_errors(model_dir):
        return sorted(
            int(entry.name[1:])
            for entry in model_dir.iterdir()
            if re.fullmatch(r"p\d+", entry.name) and (entry / "project.json").is_file()
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
    with _folder_errors(root):
        if not path.exists():
            return None
        try:
            return ProjectRecord.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ModelFolderError(
                f"{path} is damaged ({error.error_count()} bad fields): move it away and run "
                "`python -m scripts.setup_project` again; versions and labels stay"
            ) from None


def write_seen(root: Path, answers: Mapping[int, str]) -> None:
    """Keep the annotations (id -> what was answered) that the last finished round saw."""
    _write(root / "seen.json", json.dumps(answers))


def read_seen(root: Path) -> dict[int, str]:
    """The annotations that the last finished round saw; empty before the first, or where
    unreadable.
    """
    try:
        return {int(k): v for k, v in json.loads((root / "seen.json").read_bytes()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        # It only saves a training: without it everything counts as new once.
        log.warning(
            "%s/seen.json is not readable (%s): treating all annotations as new", root, error
        )
        return {}


def count_changes(before: Mapping[int, str], now: Mapping[int, str]) -> int:
    """How many annotations were made, changed or deleted between two readings."""
    return sum(before.get(key) != now.get(key) for key in before.keys() | now.keys())


def save(root: Path, state: State, meta: Meta) -> Meta:
    """Write a version, whole or not at all; the metadata comes back with the weights' sha256."""
    final = root / meta.version
    draft = root / f".draft-{meta.version}-{os.getpid()}"
    with _folder_errors(root):
        if final.exists():
            raise ModelFolderError(f"{final} exists already: versions are never overwritten")
        for leftover in root.glob(f".draft-{meta.version}-*"):  # of one that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        draft.mkdir(parents=True)
        try:
            weights = draft / "model.safetensors"
            safetensors.numpy.save_file(dict(state), weights)
            meta = meta.model_copy(update={"sha256": _sha256(weights)})
            _write(draft / "meta.json", meta.model_dump_json(indent=2))
            draft.rename(final)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return meta


def read_meta(root: Path, version: str) -> Meta:
    """A version's metadata; BrokenVersionError says what is wrong with the folder."""
    path = root / version / "meta.json"
    try:
        meta = _parse_meta(path, path.stat().st_mtime_ns)
    except FileNotFoundError:
        raise BrokenVersionError(f"{version} has no meta.json: half-written, or not ours") from None
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "not JSON"
        raise BrokenVersionError(f"{version}/meta.json is damaged ({where})") from None
    except OSError as error:
        raise BrokenVersionError(f"{version}/meta.json cannot be read: {error.strerror}") from None
    if meta.version != version:
        raise BrokenVersionError(f"{version}/meta.json speaks of {meta.version}: a foreign folder")
    for name in (version, meta.body):
        if not (root / name / "model.safetensors").is_file():
            raise BrokenVersionError(f"{name} has no model.safetensors: half-written, or not ours")
    return meta


@lru_cache(maxsize=4096)
def _parse_meta(path: Path, mtime_ns: int) -> Meta:  # noqa: ARG001
    """A status lists all versions, every few seconds, and their files never change."""
    return Meta.model_validate_json(path.read_bytes())


def versions(root: Path) -> tuple[list[Meta], dict[str, str]]:
    """All sound versions, oldest first, and the broken ones with the reason. Weights are not read
    here.
    """
    sound: list[Meta] = []
    broken: dict[str, str] = {}
    for name in _version_names(root):
        try:
            sound.append(read_meta(root, name))
        except BrokenVersionError as error:
            broken[name] = str(error)
    return sound, broken


def last_round(root: Path) -> int:
    """The highest round that has a folder, sound or not; 0 before the first."""
    return max((_place(name)[0] for name in _version_names(root)), default=0)


def body_of(version: str) -> str:
    """The version whose body a version has: r0007 for r0007h02 and for r0007."""
    return version.partition("h")[0]


def next_head(root: Path, body: str) -> str:
    """The name of the next head on a body."""
    # Names of deleted ones are not given again: open tasks carry their predictions.
    names = {*_version_names(root), *(p.version for p in promotions(root))}
    heads = [_place(name)[1] for name in names if body_of(name) == body]
    return f"{body}h{max(heads, default=0) + 1:02d}"


def round_of(version: str) -> int:
    """The round that made a version's body."""
    return _place(version)[0]


def prune(root: Path) -> None:
    """Delete what is long superseded: heads, of which one comes with every few labels, but for the
    newest and those that were in service last; and all embeddings but those of the last two bodies,
    which can be made again.
    """
    _prune_heads(root)
    _prune_embeddings(root)


def _prune_heads(root: Path) -> None:
    heads = [name for name in _version_names(root) if body_of(name) != name]
    # By time: after a roll-back the newest head is one of an older body.
    heads.sort(key=lambda name: (root / name).stat().st_mtime)
    keep = {*heads[-HEADS_KEPT:], *(p.version for p in promotions(root)[:2])}
    with _folder_errors(root):
        for name in set(heads) - keep:
            shutil.rmtree(root / name, ignore_errors=True)


def _prune_embeddings(root: Path) -> None:
    history = [p.version for p in promotions(root)]
    bodies = list(dict.fromkeys(map(body_of, history)))[:2]
    keep = set()
    for version in history:
        if body_of(version) in bodies:
            with suppress(BrokenVersionError):
                keep.add(read_meta(root, version).body_key)
    long_ago = time.time() - DRAFT_LIFETIME_S
    with _folder_errors(root):
        for path in (root / "embeddings").glob("*"):
            is_draft = path.suffix != ".safetensors"  # of a process that writes it, or was killed
            if path.stat().st_mtime < long_ago if is_draft else path.name[:16] not in keep:
                path.unlink(missing_ok=True)


def body_key(state: State) -> str:
    """A fingerprint of all weights but the last layer's."""
    digest = hashlib.sha256()
    for name in sorted(state.keys() - set(HEAD_TENSORS)):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(state[name]).tobytes())
    return digest.hexdigest()[:16]


def load_state(root: Path, version: str) -> State:
    """A version's weights, checked against their sha256; BrokenVersionError where they differ.

    A head comes with its body.
    """
    own = load_own_state(root, version)
    body = body_of(version)
    return own if body == version else load_own_state(root, body) | own


def load_own_state(root: Path, version: str) -> State:
    """The same, of a head its last layer alone."""
    meta = read_meta(root, version)
    path = root / version / "model.safetensors"
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != meta.sha256:
            raise BrokenVersionError(f"{version}/model.safetensors differs from its sha256")
        return safetensors.numpy.load(content)
    except (OSError, safetensors.SafetensorError) as error:
        raise BrokenVersionError(f"{version}/model.safetensors cannot be read: {error}") from None


def promotions(root: Path) -> list[Promotion]:
    """What was put in service and when, newest first; empty before the first."""
    path = root / "current"
    with _folder_errors(root):
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
    """The version in service: the last promoted one that is sound, or None before the first."""
    for promotion in promotions(root):
        try:
            return read_meta(root, promotion.version)
        except BrokenVersionError as error:
            log.error("%s: %s; serving the version before it", root.name, error)
    return None


def promote(root: Path, version: str, now: datetime | None = None) -> Meta:
    """Put a version in service from the next request on; rolling back is promoting an older one."""
    if not VERSION_NAME.fullmatch(version) or not (root / version).is_dir():
        known = ", ".join(_version_names(root)) or "none yet"
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


def save_pool_probs(root: Path, version: str, image_ids: Sequence[str], probs: Probs) -> None:
    """Keep what a version thinks of the pool, so that asking or showing an image of it needs no
    model.
    """
    path = root / version / "pool.safetensors"
    draft = path.with_suffix(f".draft-{os.getpid()}")
    with _folder_errors(root):
        safetensors.numpy.save_file(
            {"probs": np.ascontiguousarray(probs)}, draft, {"image_ids": json.dumps(image_ids)}
        )
        draft.replace(path)


def load_pool_probs(root: Path, version: str) -> tuple[tuple[str, ...], Probs] | None:
    """What a version thinks of the pool: image ids, and a row of `Probs` each; None if not kept."""
    path = root / version / "pool.safetensors"
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return tuple(json.loads(file.metadata()["image_ids"])), file.get_tensor("probs")
    except (FileNotFoundError, safetensors.SafetensorError):
        return None


def save_validation_probs(root: Path, version: str, labels: Labels, probs: Probs) -> None:
    """Keep what a version thinks of the validation split, for the comparison with the next one."""
    with _folder_errors(root):
        safetensors.numpy.save_file(
            {"probs": np.ascontiguousarray(probs), "labels": np.ascontiguousarray(labels)},
            root / version / "validation.safetensors",
        )


def load_validation(root: Path, version: str) -> tuple[Labels, Probs] | None:
    """The same again: the data set's labels, and a row of `Probs` each; None if not kept."""
    try:
        kept = safetensors.numpy.load_file(root / version / "validation.safetensors")
    except (FileNotFoundError, safetensors.SafetensorError):
        return None
    return kept["labels"], kept["probs"]


def load_validation_probs(root: Path, version: str, labels: Labels) -> Probs | None:
    """The probabilities alone; None if not kept, or kept for other images."""
    kept = load_validation(root, version)
    return kept[1] if kept is not None and np.array_equal(kept[0], labels) else None


def save_embeddings(
    folder: Path, body_key: str, image_size: int, image_ids: Sequence[str], kept: PoolEmbeddings
) -> None:
    """Keep what a body makes of a pool's images, so that its heads need no forward pass."""
    path = _embeddings_path(folder, body_key, image_size, image_ids)
    draft = path.with_suffix(f".draft-{os.getpid()}")
    with _folder_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: np.ascontiguousarray(rows) for name, rows in vars(kept).items()}
        safetensors.numpy.save_file(tensors, draft)
        draft.replace(path)


def load_embeddings(
    folder: Path, body_key: str, image_size: int, image_ids: Sequence[str]
) -> PoolEmbeddings | None:
    """The same again; None if not kept, or kept for another pool."""
    path = _embeddings_path(folder, body_key, image_size, image_ids)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return PoolEmbeddings(*(file.get_tensor(n) for n in ("pool", "validation", "test")))
    except (FileNotFoundError, safetensors.SafetensorError):
        return None


def write_answers(root: Path, read_at: datetime, answers: Mapping[int, Sequence[Any]]) -> None:
    """Keep all annotations (rows by task) as read from a moment on."""
    rows = {task_id: [asdict(row) for row in of_task] for task_id, of_task in answers.items()}
    _write(root / "answers.json", json.dumps({"read_at": read_at.isoformat(), "tasks": rows}))


def read_answers(root: Path) -> tuple[datetime, dict[int, list[dict[str, Any]]]] | None:
    """The same again, rows as dicts; None where they were never kept or are unreadable."""
    try:
        kept = json.loads((root / "answers.json").read_bytes())
        tasks = {int(task_id): list(rows) for task_id, rows in kept["tasks"].items()}
        return datetime.fromisoformat(kept["read_at"]), tasks
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None  # then all are read anew


def write_fold_probs(root: Path, probs: Mapping[str, Sequence[float]]) -> None:
    """Keep out-of-sample probabilities of images that were asked without a model."""
    _write(root / "folds.json", json.dumps(probs))


def read_fold_probs(root: Path) -> dict[str, list[float]]:
    """The same again; empty where there are none."""
    try:
        kept: dict[str, list[float]] = json.loads((root / "folds.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return kept


def write_annotators(root: Path, rows: Sequence[Any]) -> None:
    """Keep how each person does, a dataclass each."""
    _write(root / "annotators.json", json.dumps([asdict(row) for row in rows]))


def read_annotators(root: Path) -> list[dict[str, Any]]:
    """The same again, as dicts; empty where there are none."""
    try:
        rows: list[dict[str, Any]] = json.loads((root / "annotators.json").read_bytes())
    except (OSError, ValueError):
        return []
    return rows


def write_open_images(root: Path, read_at: datetime, images: Sequence[OpenImage]) -> None:
    """Keep what is open from a moment on, the first in the order of asking."""
    kept = OpenImages(read_at=read_at, images=tuple(images[:OPEN_IMAGES_KEPT]))
    _write(root / "open.json", kept.model_dump_json())


def read_open_images(root: Path) -> OpenImages | None:
    """The same again; None where there is none, or it is unreadable."""
    try:
        return OpenImages.model_validate_json((root / "open.json").read_bytes())
    except (OSError, ValidationError):
        return None  # the next re-ordering writes it again


def write_review(root: Path, review: Review) -> None:
    """Keep where labels are reviewed, and what came of it."""
    _write(root / "review.json", review.model_dump_json(indent=2))


def has_review(root: Path) -> bool:
    """Whether labels are reviewed anywhere, be its record sound or not."""
    return (root / "review.json").exists()


def read_review(root: Path) -> Review | None:
    """The same again; None before the first review."""
    path = root / "review.json"
    with _folder_errors(root):
        if not path.exists():
            return None
        try:
            return Review.model_validate_json(path.read_bytes())
        except ValidationError:
            raise ModelFolderError(
                f"{path} is damaged: delete it, and the next review begins a new project"
            ) from None


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
    with _folder_errors(root):
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


def _version_names(root: Path) -> list[str]:
    with _folder_errors(root):
        if not root.is_dir():
            return []
        names = (entry.name for entry in root.iterdir() if entry.is_dir())
        return sorted((n for n in names if VERSION_NAME.fullmatch(n)), key=_place)


def _place(version: str) -> tuple[int, int]:
    """Round and number of head (0: the body itself): the order in which versions were made."""
    found = VERSION_NAME.fullmatch(version)
    return (int(found["round"]), int(found["head"] or 0)) if found else (0, 0)


def _embeddings_path(
    folder: Path, body_key: str, image_size: int, image_ids: Sequence[str]
) -> Path:
    return folder / f"{body_key}-{image_size}px-{_fingerprint(image_ids)}.safetensors"


def _fingerprint(image_ids: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(image_ids).encode()).hexdigest()[:16]


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.draft-{os.getpid()}")
    with _folder_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)


@contextmanager
def _folder_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelFolderError(
            f"the model folder {folder} cannot be used ({reason}): "
            "check MODEL_DIR, its permissions and the free space"
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
