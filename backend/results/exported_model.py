"""Read a version as one whole network, with the project's current classes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from backend.base.classes import ClassList
from backend.base.errors import BrokenVersionError, ExportError, NoModelError
from backend.network.resnet_layout import HEAD_TENSORS
from backend.store.bodies import Bodies
from backend.store.body_meta import BODY_NAME, BodyMeta
from backend.store.registry import Registry
from backend.store.tensor_file import State
from backend.store.version_meta import Meta


@dataclass(frozen=True)
class ExportedModel:
    """A version's whole network, and the current classes that its outputs stand for."""

    meta: Meta
    state: State  # the weights of the body and of the last layer
    classes: tuple[str, ...]  # spelled as in the label config
    # The class of each output, as a position in `classes`. Two outputs belong to one class if the
    # class of one output was renamed to that of the other.
    class_of_output: tuple[int, ...]
    removed: tuple[str, ...]  # classes of the version that the project no longer has
    unknown: tuple[str, ...]  # classes of the project that joined after the version was trained
    start: BodyMeta | None = None  # the adapted body that training started from, if it is known

    @property
    def is_merged(self) -> bool:
        """Return whether a class has several outputs, whose probabilities must be added."""
        return len(self.classes) < len(self.class_of_output)


def read_model(registry: Registry, version: str | None, classes: ClassList) -> ExportedModel:
    """Read a version, or the version in service if `version` is None.

    Outputs for removed classes are dropped. The probabilities still equal those that
    ClassList.align returns, because it does not matter whether outputs are dropped before or after
    temperature scaling. Raises NoModelError, BrokenVersionError or ExportError.
    """
    if version is None:
        meta = registry.current()
        if meta is None:
            raise NoModelError(
                "no version is in service yet: the first one is trained once images are labeled"
            )
    else:
        registry.check_known(version)
        meta = registry.read_meta(version)
    targets = [classes.spell(name) for name in meta.classes]
    kept = [output for output, target in enumerate(targets) if target is not None]
    names = tuple(dict.fromkeys(target for target in targets if target is not None))
    if len(names) < 2:
        raise ExportError(
            f"{meta.version} has only {len(names)} of the project's current classes: export a "
            "version that was trained after the classes changed"
        )
    state = registry.load_state(meta.version)
    head = {name: np.ascontiguousarray(state[name][kept]) for name in HEAD_TENSORS}
    return ExportedModel(
        meta,
        state | head,
        names,
        tuple(names.index(targets[output] or "") for output in kept),
        tuple(n for n, target in zip(meta.classes, targets, strict=True) if target is None),
        tuple(name for name in classes.current if name not in names),
        _find_start(registry, meta),
    )


def _find_start(registry: Registry, meta: Meta) -> BodyMeta | None:
    """Return the metadata of the adapted body that a version was trained from, or None."""
    with suppress(BrokenVersionError):  # the export does not need it
        if BODY_NAME.fullmatch(meta.start):
            return Bodies(registry.root).read_meta(meta.start)
    return None
