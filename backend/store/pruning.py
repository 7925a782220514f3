"""Delete superseded files from a project's folder; announce deletions of weights a day in advance.

A version is marked as pruned before its files are deleted, so after a crash, it is either intact or
marked as pruned. The next pruning deletes any files that a crash left behind.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backend.base.errors import BrokenVersionError
from backend.store.bodies import Bodies
from backend.store.body_pruning import prune_bodies
from backend.store.files import folder_errors
from backend.store.model_outputs import EMBEDDINGS, POOL, SAMPLE_FILE
from backend.store.place import Place
from backend.store.project_store import ProjectStore
from backend.store.registry import Promotion, Registry
from backend.store.version_meta import Meta, body_of

log = logging.getLogger(__name__)

HEADS_KEPT = 10  # in addition to the heads recently in service
BODIES_KEPT = 2  # the bodies most recently in service
DRAFT_LIFETIME_S = 3600.0
NOTICE = timedelta(days=1)  # between the announcement and the deletion


def choose_pruned(
    metas: Sequence[Meta],
    promotions: Sequence[Promotion],
    keep_versions: int,
    named: Collection[str],
) -> list[str]:
    """Return the full versions to prune, oldest first; their heads are pruned with them.

    `metas` contains the intact versions, `promotions` starts with the newest promotion, and `named`
    contains the versions to which predictions in Label Studio refer. If `keep_versions` is 0, all
    versions are kept.
    """
    full = sorted((meta for meta in metas if not meta.is_head), key=lambda meta: meta.round)
    newest = {meta.version for meta in full[-keep_versions:]}  # [-0:] selects all
    usable = {meta.version for meta in metas if meta.pruned_at is None}
    in_service = next((p.version for p in promotions if p.version in usable), "")
    bodies = dict.fromkeys(body_of(p.version) for p in promotions)
    promoted = [body for body in bodies if body in usable][:BODIES_KEPT]
    stay = {*newest, *promoted, body_of(in_service), *map(body_of, named)}
    return [m.version for m in full if m.version in usable and m.version not in stay]


def prune(
    root: Path,
    embeddings: Place,
    keep_versions: int,
    find_named: Callable[[], Collection[str]],
    now: datetime,
) -> None:
    """Delete old heads and embeddings; announce the deletion of old weights, then delete them.

    Adapted bodies are deleted with the last version that was trained from them. The caller must
    hold the promote lock. `find_named` asks Label Studio which versions its predictions refer to;
    it is called only if weights are due to be deleted.
    """
    announced_at = before = read_announcement(root)
    _prune_heads(root)
    sound, _ = Registry(root).versions()
    promotions = Registry(root).promotions()
    _prune_embeddings(root, embeddings, sound, promotions)
    _delete_drafts(root)
    going = choose_pruned(sound, promotions, keep_versions, ())
    if not going:
        # KEEP_VERSIONS=0 cancels the announcement: a later deletion must be announced again.
        announced_at = announced_at if keep_versions and _has_pruned(sound, announced_at) else None
    elif announced_at is None:  # a day before the deletion, so that users can prevent it
        announced_at = now
        log.warning("%s", _sentence(sound, going, now))
    elif now >= announced_at + NOTICE:
        going = choose_pruned(sound, promotions, keep_versions, find_named())
        for version in going:
            Registry(root).mark_pruned(version, now)
        if going:
            log.info("pruned the weights of %s: KEEP_VERSIONS=%d", ", ".join(going), keep_versions)
    _delete_weights(root)
    prune_bodies(root, keep_versions, now)
    if announced_at != before:
        write_announcement(root, announced_at)


def notice(root: Path, sound: Sequence[Meta], keep_versions: int) -> str:
    """Return a notice of when weights will be deleted, or "" if no deletion was announced."""
    announced_at = read_announcement(root)
    if announced_at is None or _has_pruned(sound, announced_at):
        return ""
    going = choose_pruned(sound, Registry(root).promotions(), keep_versions, ())
    return _sentence(sound, going, announced_at) if going else ""


def read_announcement(root: Path) -> datetime | None:
    """Return the time at which a deletion of weights was announced, or None."""
    at = ProjectStore(root).facts().pruning_announced_at
    return datetime.fromtimestamp(at, UTC) if at else None


def write_announcement(root: Path, announced_at: datetime | None) -> None:
    """Record when a deletion of weights was announced; None clears it."""
    at = announced_at.timestamp() if announced_at else 0.0
    ProjectStore(root).record(pruning_announced_at=at)


def _has_pruned(sound: Sequence[Meta], announced_at: datetime | None) -> bool:
    """Return whether weights have been deleted since the announcement."""
    return announced_at is not None and any(
        meta.pruned_at is not None and meta.pruned_at >= announced_at for meta in sound
    )


def _sentence(sound: Sequence[Meta], going: Sequence[str], announced_at: datetime) -> str:
    n_full = sum(not meta.is_head and meta.pruned_at is None for meta in sound)
    at = (announced_at + NOTICE).astimezone(UTC)
    return (
        f"the weights of {len(going)} of {n_full} full versions will be deleted after "
        f"{at:%Y-%m-%d %H:%M} UTC; set KEEP_VERSIONS=0 to keep all"
    )


def _delete_weights(root: Path) -> None:
    """Delete the weights, scores and drafts of all pruned versions, including heads.

    Outputs for the validation sample are kept, because annotators may still label it.
    """
    pruned = [m.version for m in Registry(root).versions()[0] if m.pruned_at is not None]
    with folder_errors(root):
        for path in (path for version in pruned for path in (root / version).iterdir()):
            is_output = path.suffix == ".safetensors" and path.name != SAMPLE_FILE
            if path.name == POOL:
                shutil.rmtree(path, ignore_errors=True)
            elif is_output or ".draft-" in path.name:
                path.unlink(missing_ok=True)


def _prune_heads(root: Path) -> None:
    """Delete all heads except the newest heads and the heads most recently in service.

    Without this, heads would accumulate, because a new head is fitted after every few labels.
    """
    heads = [name for name in Registry(root).version_names() if body_of(name) != name]
    # Sort by time because the newest head may belong to an older body after a rollback.
    heads.sort(key=lambda name: _made_at(root, name))
    keep = {*heads[-HEADS_KEPT:], *(p.version for p in Registry(root).promotions()[:2])}
    with folder_errors(root):
        for name in set(heads) - keep:
            shutil.rmtree(root / name, ignore_errors=True)


def _made_at(root: Path, head: str) -> tuple[float, float]:
    """Return a key that sorts heads by creation.

    The first number is correct even if a head was measured again, which rewrites meta.json.
    However, this number is in whole seconds, so the second number breaks ties.
    """
    folder = root / head
    path = folder / "meta.json"
    changed_at = (path if path.exists() else folder).stat().st_mtime
    try:
        created_at = Registry(root).read_meta(head).created_at
    except BrokenVersionError:
        return changed_at, changed_at
    return datetime.fromisoformat(created_at).timestamp(), changed_at


def _prune_embeddings(
    root: Path, embeddings: Place, sound: Sequence[Meta], promotions: Sequence[Promotion]
) -> None:
    """Delete embeddings, which can be recomputed.

    Keep those of the two bodies most recently in service, and of the adapted bodies.
    """
    bodies = list(dict.fromkeys(body_of(p.version) for p in promotions))[:BODIES_KEPT]
    adapted = (body for body in Bodies(root).all()[0] if body.pruned_at is None)
    keep = {meta.body_key for meta in sound if meta.body in bodies}
    keep.update(body.body_key for body in adapted)
    for name in embeddings.names():
        # Earlier releases kept embeddings in a single file.
        if ".draft-" not in name and (name[:16] not in keep or name.endswith(".safetensors")):
            embeddings.delete(name)


def _delete_drafts(root: Path) -> None:
    """Delete unfinished files, versions and bodies that killed processes left behind."""
    long_ago = time.time() - DRAFT_LIFETIME_S
    with folder_errors(root):
        in_stores = (f"[ra]*/{POOL}/.*.draft-*", f"{EMBEDDINGS}/*/.*.draft-*")
        for pattern in ("*.draft-*", "[ra]*/*.draft-*", f"{EMBEDDINGS}/*.draft-*", *in_stores):
            for draft in root.glob(pattern):
                with suppress(FileNotFoundError):  # it has just been renamed into place
                    if draft.stat().st_mtime < long_ago:
                        shutil.rmtree(draft) if draft.is_dir() else draft.unlink()
