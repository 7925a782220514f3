"""Save and load the bodies that were adapted to a project's pool, and choose the start.

    MODEL_DIR/p<project>/
        a0001/    model.safetensors, without the last layer, and meta.json; a pruned body has only
                  meta.json
        start     the body that the next full training run starts from, and who chose it

Readers never see partial data: every file is written to a temporary path and then renamed.
"""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ValidationError

from backend.base.errors import BrokenVersionError, ModelFolderError
from backend.store import tensor_file
from backend.store.body_meta import BODY_NAME, PRETRAINED, BodyMeta, StartName, body_order
from backend.store.damage import broken_version_errors
from backend.store.files import cached_until_changed, folder_errors, sha256, write_text
from backend.store.registry import Registry

log = logging.getLogger(__name__)

Chooser = Literal["loop", "person"]


class Start(BaseModel, frozen=True):
    """What the next full training run starts from, as stored in the file `start`."""

    name: StartName = PRETRAINED
    chosen_by: Chooser = "loop"
    chosen_at: AwareDatetime | None = None  # None before anything was chosen


class Bodies:
    """The adapted bodies in a project's folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """Return the names of all bodies' folders, oldest first, including broken ones."""
        with folder_errors(self.root):
            if not self.root.is_dir():
                return []
            names = (entry.name for entry in self.root.iterdir() if entry.is_dir())
            return sorted(filter(BODY_NAME.fullmatch, names), key=body_order)

    def all(self) -> tuple[list[BodyMeta], dict[str, str]]:
        """Return all intact bodies (oldest first, including pruned ones), and the fault of each
        broken body.

        Reads only the weights of the start, and only once per process.
        """
        sound: list[BodyMeta] = []
        broken: dict[str, str] = {}
        chosen = ""
        with suppress(ModelFolderError):  # a damaged `start` is reported elsewhere
            chosen = self.start().name
        for name in self.names():
            try:
                sound.append(self._check(name) if name == chosen else self.read_meta(name))
            except BrokenVersionError as error:
                broken[name] = str(error)
        return sound, broken

    def next_name(self) -> str:
        """Return the name for the next body.

        Names of deleted bodies are not reused if a version or the start still refers to them.
        """
        names = {*self.names(), *(meta.start for meta in Registry(self.root).versions()[0])}
        with suppress(ModelFolderError):
            names.add(self.start().name)
        numbers = [body_order(name) for name in names if BODY_NAME.fullmatch(name)]
        return f"a{max(numbers, default=0) + 1:04d}"

    def save(self, state: tensor_file.State, meta: BodyMeta) -> BodyMeta:
        """Write a body atomically; return its metadata, including its sha256 and body key.

        `state` has all tensors of a ResNet-18 except the last layer's. Raises ValueError if it
        does not, or if it contains NaN or infinite numbers.
        """
        if tensor := tensor_file.find_not_finite(state):
            raise ValueError(f"{tensor} contains NaN or infinite numbers")
        final = self.root / meta.name
        draft = self.root / f".draft-{meta.name}-{os.getpid()}"
        with folder_errors(self.root):
            if final.exists():
                raise ModelFolderError(f"{final} already exists: bodies are never overwritten")
            for leftover in self.root.glob(f".draft-{meta.name}-*"):  # from a killed process
                shutil.rmtree(leftover, ignore_errors=True)
            draft.mkdir(parents=True)
            try:
                weights = draft / tensor_file.WEIGHTS_FILE
                tensor_file.write_tensors(weights, state)
                if fault := tensor_file.find_body_header_fault(weights):
                    raise ValueError(fault)
                written = {"sha256": sha256(weights), "body_key": tensor_file.body_key(state)}
                meta = meta.model_copy(update=written)
                _write_meta(draft, meta)
                draft.rename(final)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        return meta

    def read_meta(self, name: str) -> BodyMeta:
        """Return a body's metadata.

        Raises BrokenVersionError, which names the fault, if the body is broken. Checks only the
        header of the weights; a pruned body has no weights.
        """
        meta = self._read_meta_file(name)
        if meta.pruned_at is None:
            try:
                self._check_header(name)
            except BrokenVersionError:
                # The body may have been pruned in the meantime; see `Registry.read_meta`.
                meta = self._read_meta_file(name)
                if meta.pruned_at is None:
                    raise
        return meta

    def load_state(self, name: str) -> tensor_file.State:
        """Load a body's weights: all tensors of a ResNet-18 except the last layer's.

        Raises BrokenVersionError if they do not match their sha256, do not fit a ResNet-18 or are
        not finite, and ModelFolderError if they were pruned.
        """
        meta = self.read_meta(name)
        if meta.pruned_at is not None:
            raise ModelFolderError(_pruned(meta))
        weights = self._weights(name)
        with broken_version_errors(weights):
            return tensor_file.read_weights(weights, meta.sha256)

    def pretrained_weights(self, name: str) -> str:
        """Return the pre-trained weights that a body was made from, perhaps by way of other bodies.

        Raises BrokenVersionError if it or one of the others is unknown or broken.
        """
        while BODY_NAME.fullmatch(name):
            name = self._read_meta_file(name).made_from
        return name

    def mark_pruned(self, name: str, now: datetime) -> None:
        """Mark a body as pruned in meta.json."""
        meta = self._read_meta_file(name).model_copy(update={"pruned_at": now})
        _write_meta(self.root / name, meta)

    def start(self) -> Start:
        """Return what was chosen as the start, which may be broken: see `usable_start`.

        Raises ModelFolderError if the file is damaged.
        """
        path = self.root / "start"
        with folder_errors(self.root):
            try:
                return Start.model_validate_json(path.read_bytes())
            except FileNotFoundError:
                return Start()
            except ValidationError:
                raise ModelFolderError(
                    f"{path} is damaged: choose the start again with "
                    "`python -m scripts.models start <body>`"
                ) from None

    def usable_start(self) -> Start:
        """Return the start, or the pre-trained weights, logged once, if the start is unusable."""
        if fault := self.start_fault():
            _log_fallback(self.root.name, fault)
            return Start()
        return self.start()

    def start_fault(self) -> str:
        """Return why the start cannot be used, or "".

        Each process reads the weights of the start once, to find damage before they are needed.
        """
        try:
            start = self.start()
            if start.name != PRETRAINED:
                self._check_usable(start.name)
        except ModelFolderError as error:
            return str(error)
        return ""

    def set_start(self, name: str, *, by: Chooser, now: datetime | None = None) -> Start:
        """Choose what the next full training run starts from: a body's name or PRETRAINED.

        The caller must hold the promote lock, so that the body is not pruned meanwhile. Raises
        ModelFolderError if the body is unknown, broken or pruned. A refused body can be chosen only
        by a person. Choosing the start that is already chosen does not change `chosen_at`.
        """
        if name != PRETRAINED:
            self._check_known(name)
            meta = self._check_usable(name)
            if meta.refused and by == "loop":
                raise ModelFolderError(f"{name} was refused ({meta.refused}): choose it by hand")
        chosen = Start(name=name, chosen_by=by, chosen_at=now or datetime.now(UTC))
        with suppress(ModelFolderError):  # the file is damaged; this choice replaces it
            before = self.start()
            if before.name == name and before.chosen_at:
                chosen = chosen.model_copy(update={"chosen_at": before.chosen_at})
        write_text(self.root / "start", chosen.model_dump_json(indent=2))
        return chosen

    def newest_accepted(self) -> str:
        """Return the start that the loop prefers: the newest body that was not refused."""
        accepted = [meta.name for meta in self.all()[0] if meta.is_accepted]
        return accepted[-1] if accepted else PRETRAINED

    def _check_known(self, name: str) -> None:
        names = self.names()
        if name not in names:
            known = ", ".join((*names, PRETRAINED))
            raise ModelFolderError(f"no body {name!r:.80} in {self.root}; known starts: {known}")

    def _check_usable(self, name: str) -> BodyMeta:
        """Return a body's metadata; raise ModelFolderError unless its weights can be loaded."""
        meta = self._check(name)
        if meta.pruned_at is not None:
            raise ModelFolderError(_pruned(meta))
        return meta

    def _check(self, name: str) -> BodyMeta:
        """Return a body's metadata; raise BrokenVersionError if its weights are damaged."""
        meta = self.read_meta(name)
        if meta.pruned_at is None:
            weights = self._weights(name)
            with broken_version_errors(weights):
                fault = tensor_file.find_fault(weights, meta.sha256)
            if fault:
                raise BrokenVersionError(fault)
        return meta

    def _check_header(self, name: str) -> None:
        weights = self._weights(name)
        with broken_version_errors(weights):
            fault = tensor_file.find_body_header_fault(weights)
        if fault:
            raise BrokenVersionError(f"{name}/{weights.name} {fault}")

    def _weights(self, name: str) -> Path:
        return self.root / name / tensor_file.WEIGHTS_FILE

    def _read_meta_file(self, name: str) -> BodyMeta:
        path = self.root / name / "meta.json"
        with broken_version_errors(path):
            meta = _parse_meta(path)
        if meta.name != name:
            raise BrokenVersionError(
                f"{name}/meta.json belongs to {meta.name}: the folder was renamed or copied"
            )
        return meta


def _pruned(meta: BodyMeta) -> str:
    return (
        f"the weights of {meta.name} were deleted on {meta.pruned_at:%Y-%m-%d}, because no kept "
        "version started from it: choose another start"
    )


# The status lists all bodies every few seconds, but their files rarely change.
@cached_until_changed(256)
def _parse_meta(path: Path) -> BodyMeta:
    return BodyMeta.model_validate_json(path.read_bytes())


def _write_meta(folder: Path, meta: BodyMeta) -> None:
    write_text(folder / "meta.json", meta.model_dump_json(indent=2))


@lru_cache(maxsize=256)
def _log_fallback(project: str, fault: str) -> None:
    """Log an unusable start only once per process, because the status is read every 2 seconds."""
    log.error("%s: %s; training starts from the pre-trained weights", project, fault)
