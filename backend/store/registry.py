"""Save, promote, roll back and load the model versions of a project.

    MODEL_DIR/p<project>/
        project.json      see project_record.py
        project.db        see project_store.py
        current           the version in service and its predecessors
        r0007/            model.safetensors, meta.json and the probabilities (model_outputs.py);
                          a pruned version has only meta.json and its probabilities for the
                          validation sample
        r0007h02/         the second head on the body of r0007: the same files, but only the last
                          layer
        embeddings/       of each body, unless STORE is set (model_outputs.py)
        *.lock            see `lock` in files.py

Pydantic reads all JSON, because it rejects text that is nested too deeply or is not Unicode.
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

from pydantic import AwareDatetime, BaseModel, ValidationError

from backend.base.errors import BrokenVersionError, ModelFolderError, NoModelError
from backend.measures.evaluation import Evaluation
from backend.store import tensor_file
from backend.store.damage import broken_version_errors
from backend.store.files import cached_until_changed, folder_errors, sha256, write_text
from backend.store.version_meta import VERSION_NAME, Meta, VersionName, body_of, version_order

log = logging.getLogger(__name__)

PROMOTIONS_KEPT = 500


class Promotion(BaseModel, frozen=True):
    """A version that was put in service, and the time (ISO 8601, UTC)."""

    version: VersionName
    promoted_at: AwareDatetime


class Promotions(BaseModel):
    """The file `current`."""

    promotions: list[Promotion]  # newest first


class Registry:
    """The model versions in a project's folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def version_names(self) -> list[str]:
        """Return the names of all version folders, oldest first, including broken ones."""
        with folder_errors(self.root):
            if not self.root.is_dir():
                return []
            names = (entry.name for entry in self.root.iterdir() if entry.is_dir())
            return sorted(filter(VERSION_NAME.fullmatch, names), key=version_order)

    def versions(self) -> tuple[list[Meta], dict[str, str]]:
        """Return all intact versions (oldest first, including pruned ones), and the fault of each
        broken version.

        Reads only the weights of the version in service, and only once: see `current`.
        """
        sound: list[Meta] = []
        broken: dict[str, str] = {}
        passed_over: dict[str, str] = {}
        with suppress(ModelFolderError):  # a damaged `current` is reported elsewhere
            passed_over = self._find_current()[1]
        for name in self.version_names():
            try:
                meta = self.read_meta(name)
            except BrokenVersionError as error:
                broken[name] = str(error)
            else:
                if fault := passed_over.get(name) or passed_over.get(meta.body):
                    broken[name] = fault
                else:
                    sound.append(meta)
        return sound, broken

    def last_round(self) -> int:
        """Return the highest round that has a folder, intact or broken, or 0 if there is none."""
        return max((version_order(name)[0] for name in self.version_names()), default=0)

    def starts(self) -> set[str]:
        """Return what the versions that keep their weights were trained from, as in `Meta.start`.

        Versions with damaged weights are included. Raises BrokenVersionError if a version's
        metadata cannot be read.
        """
        metas = (self._read_meta_file(name) for name in self.version_names())
        return {meta.start for meta in metas if meta.pruned_at is None}

    def next_head(self, body: str) -> str:
        """Return the name for the next head on a body.

        Names of deleted heads are not reused, because open tasks may still have their predictions.
        """
        names = {*self.version_names(), *(p.version for p in self.promotions())}
        heads = [version_order(name)[1] for name in names if body_of(name) == body]
        return f"{body}h{max(heads, default=0) + 1:02d}"

    def save(self, state: tensor_file.State, meta: Meta) -> Meta:
        """Write a version atomically; return its metadata, including the sha256 of its weights."""
        final = self.root / meta.version
        draft = self.root / f".draft-{meta.version}-{os.getpid()}"
        with folder_errors(self.root):
            if final.exists():
                raise ModelFolderError(f"{final} already exists: versions are never overwritten")
            for leftover in self.root.glob(f".draft-{meta.version}-*"):  # from a killed process
                shutil.rmtree(leftover, ignore_errors=True)
            draft.mkdir(parents=True)
            try:
                weights = draft / tensor_file.WEIGHTS_FILE
                tensor_file.write_tensors(weights, state)
                meta = meta.model_copy(update={"sha256": sha256(weights)})
                _write_meta(draft, meta)
                draft.rename(final)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        return meta

    def read_meta(self, version: str) -> Meta:
        """Return a version's metadata.

        Raises BrokenVersionError, which names the fault, if the version is broken. Checks only the
        header of the weights (names, types and shapes); a pruned version has no weights.
        """
        meta = self._read_meta_file(version)
        if meta.pruned_at is None:
            try:
                self._check_weights(meta)
            except BrokenVersionError:
                # Pruning marks a version before deleting its files, so read meta.json again: the
                # version may have been pruned in the meantime.
                meta = self._read_meta_file(version)
                if meta.pruned_at is None:
                    raise
        return meta

    def mark_pruned(self, version: str, now: datetime) -> None:
        """Mark a version, and thereby its heads, as pruned in meta.json."""
        meta = self._read_meta_file(version).model_copy(update={"pruned_at": now})
        _write_meta(self.root / version, meta)

    def record_validation(self, version: str, validation: Evaluation | None) -> None:
        """Replace a version's accuracy in meta.json after validation labels have changed."""
        meta = self._read_meta_file(version).model_copy(update={"validation": validation})
        _write_meta(self.root / version, meta)

    def load_state(self, version: str) -> tensor_file.State:
        """Load a version's weights; for a head, include the weights of its body.

        Raises NoModelError if the weights were pruned. Raises BrokenVersionError if the weights do
        not match their sha256, do not fit a ResNet-18 or are not finite.
        """
        own = self.load_own_state(version)
        body = body_of(version)
        return own if body == version else self.load_own_state(body) | own

    def load_own_state(self, version: str) -> tensor_file.State:
        """Load the weights in a version's own file; for a head, these are only the last layer.

        Raises the same errors as `load_state`.
        """
        meta = self.read_meta(version)
        if meta.pruned_at is not None:
            raise NoModelError(
                f"the weights of {version} were pruned on {meta.pruned_at:%Y-%m-%d}: choose "
                "another version; a higher KEEP_VERSIONS keeps more versions (0: all)"
            )
        weights = self._weights(version)
        with broken_version_errors(weights):
            return tensor_file.read_weights(weights, meta.sha256)

    def promotions(self) -> list[Promotion]:
        """Return all promotions, newest first; the list is empty before the first promotion."""
        path = self.root / "current"
        with folder_errors(self.root):
            if not path.exists():
                return []
            try:
                return Promotions.model_validate_json(path.read_bytes()).promotions
            except ValidationError:
                raise ModelFolderError(
                    f"{path} is damaged: put a version back in service with "
                    "`python -m scripts.models promote <version>`"
                ) from None

    def current(self) -> Meta | None:
        """Return the version in service, which is the last intact promoted version, or None.

        Each process reads the weights of this version once, to find damage before they are needed.
        """
        return self._find_current()[0]

    def promote(self, version: str, now: datetime | None = None) -> Meta:
        """Put a version in service from the next request on; promote an older one to roll back."""
        self.check_known(version)
        self.load_state(version)
        meta = self.read_meta(version)
        try:
            before = self.promotions()
        except ModelFolderError:
            before = []  # the file is damaged; this promotion replaces it
        entry = Promotion(version=version, promoted_at=now or datetime.now(UTC))
        kept = Promotions(promotions=[entry, *before][:PROMOTIONS_KEPT])
        write_text(self.root / "current", kept.model_dump_json(indent=2))
        return meta

    def check_known(self, version: str) -> None:
        """Raise NoModelError, which lists the known versions, if a version has no folder."""
        if not VERSION_NAME.fullmatch(version) or not (self.root / version).is_dir():
            known = ", ".join(self.version_names()) or "none yet"
            raise NoModelError(f"no version {version!r} in {self.root}; known versions: {known}")

    def _weights(self, version: str) -> Path:
        return self.root / version / tensor_file.WEIGHTS_FILE

    def _read_meta_file(self, version: str) -> Meta:
        path = self.root / version / "meta.json"
        with broken_version_errors(path):
            meta = _parse_meta(path)
        if meta.version != version:
            raise BrokenVersionError(
                f"{version}/meta.json belongs to {meta.version}: the folder was renamed or copied"
            )
        if meta.is_head:
            # If a body is marked as pruned, all of its heads are also pruned.
            with suppress(BrokenVersionError):
                body = self._read_meta_file(meta.body)
                meta = meta.model_copy(update={"pruned_at": meta.pruned_at or body.pruned_at})
        return meta

    def _check_weights(self, meta: Meta) -> None:
        """Raise BrokenVersionError if the header of a version's or its body's weights is wrong."""
        if meta.is_head:
            self.read_meta(meta.body)
        weights, body = self._weights(meta.version), self._weights(meta.body)
        with broken_version_errors(weights):
            fault = tensor_file.find_header_fault(weights, len(meta.classes), meta.is_head)
            read_width = tensor_file.read_width
            if not fault and meta.is_head and read_width(weights) != read_width(body):
                fault = f"is not a last layer of {meta.body}"
        if fault:
            raise BrokenVersionError(f"{meta.version}/{weights.name} {fault}")

    def _find_current(self) -> tuple[Meta | None, dict[str, str]]:
        """Return the version in service, and what is wrong with each later version, by name."""
        passed_over: dict[str, str] = {}
        for promotion in self.promotions():
            try:
                meta = self.read_meta(promotion.version)
                if meta.pruned_at is None:  # a pruned version was superseded long ago
                    self._check_numbers(meta)
                    return meta, passed_over
            except BrokenVersionError as error:
                passed_over[promotion.version] = str(error)
                _log_passed_over(self.root.name, str(error))
        return None, passed_over

    def _check_numbers(self, meta: Meta) -> None:
        """Raise BrokenVersionError if the weights of a version or of its body are damaged."""
        for part in (meta, self.read_meta(meta.body)) if meta.is_head else (meta,):
            weights = self._weights(part.version)
            with broken_version_errors(weights):
                fault = tensor_file.find_fault(weights, part.sha256)
            if fault:
                raise BrokenVersionError(fault)


# The status lists all versions every few seconds, but their files rarely change.
@cached_until_changed(4096)
def _parse_meta(path: Path) -> Meta:
    return Meta.model_validate_json(path.read_bytes())


def _write_meta(folder: Path, meta: Meta) -> None:
    write_text(folder / "meta.json", meta.model_dump_json(indent=2))


@lru_cache(maxsize=256)
def _log_passed_over(project: str, fault: str) -> None:
    """Log a skipped version only once per process, because the status is read every two seconds."""
    log.error("%s: %s; serving the version before it", project, fault)
