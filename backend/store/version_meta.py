"""Define the fields of a version's meta.json and their valid values."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, Field

from backend.images.framing import FramingName, View
from backend.measures.evaluation import Evaluation
from backend.measures.gate import Gate
from backend.store.body_meta import START
from backend.store.project_record import Classes

# Predictions with this name order an attached project's tasks before its first version.
UNTRAINED = "r0000"
VERSION_NAME = re.compile(r"r(?P<round>[0-9]{4,})(?:h(?P<head>[0-9]{2,}))?")


def _check_gate(gate: Gate) -> Gate:
    if not VERSION_NAME.fullmatch(gate.against):
        raise ValueError("against is not the name of a version")
    return gate


def _check_moment(text: str) -> str:
    datetime.fromisoformat(text)
    return text


Count = Annotated[int, Field(ge=0, le=10**9)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# Rounding may leave a probability slightly outside 0..1.
Probability = Annotated[float, Field(ge=-0.001, le=1.001)]
VersionName = Annotated[str, Field(pattern=f"^{VERSION_NAME.pattern}$")]
Moment = Annotated[str, AfterValidator(_check_moment)]  # ISO 8601


def body_of(version: str) -> str:
    """Return the version that contributed the body, for example r0007 for r0007h02 and r0007."""
    return version.partition("h")[0]


def version_order(version: str) -> tuple[int, int]:
    """Return a key that sorts by creation: the round, and the head's number or 0 for a body."""
    found = VERSION_NAME.fullmatch(version)
    return (int(found["round"]), int(found["head"] or 0)) if found else (0, 0)


def round_of(version: str) -> int:
    """Return the round in which a version's body was trained."""
    return version_order(version)[0]


class Calibration(BaseModel, frozen=True):
    """The gap between confidence and accuracy before and after temperature scaling."""

    temperature: float = Field(ge=0.01, le=100)  # wider than the fitted range
    error_before: Amount  # expected calibration error on the validation split
    error_after: Amount
    test_error_after: Amount | None  # on images to which the temperature was not fitted


class Meta(
    BaseModel,
    frozen=True,
    # The core's dataclasses are validated here rather than where they are created.
    revalidate_instances="always",
    # Their fields have their own names in Python and aliases in meta.json.
    serialize_by_alias=True,
    validate_by_alias=True,
    validate_by_name=True,
):
    """A version's metadata, as stored in meta.json."""

    version: VersionName
    round: Count
    created_at: Moment
    parent: VersionName | None
    classes: Classes
    image_size: int = Field(ge=16, le=512, multiple_of=8)
    framing: FramingName = "middle"  # for versions made before framings were recorded
    pool: str
    weights: str
    # What training started from: an adapted body, or "pretrained" for `weights`; for a head, what
    # its body started from. "" in versions made before bodies were adapted, which means the same.
    start: str = Field("", pattern=f"^(|{START.pattern})$")
    strategy: str
    labels: Count
    labels_per_class: dict[str, Count]
    labels_fingerprint: str
    left_out: dict[str, Count]
    validation: Evaluation | None  # None without validation images
    test: Evaluation | None
    # An estimate from the training labels, made while there are too few validation labels.
    # See backend/rounds/cross_validation.py.
    cross_validation: Evaluation | None = None
    refused: str | None  # why it was not promoted automatically
    gate: Annotated[Gate, AfterValidator(_check_gate)] | None = None  # None for the first version
    calibration: Calibration | None = None
    seconds: dict[str, Amount]
    torch: str
    device: str
    sha256: str = ""  # of model.safetensors; set by `Registry.save`
    # Becomes part of a file name and therefore must not contain a path.
    body_key: str = Field(
        "", pattern="^[0-9a-f]*$"
    )  # identifies the embeddings; "" in versions made before embeddings were saved
    # When the weights and scores were deleted. A head is pruned together with its body and shares
    # its body's mark.
    pruned_at: AwareDatetime | None = None

    @property
    def view(self) -> View:
        """Return how images are framed and resized for this version."""
        return View(self.image_size, self.framing)

    @property
    def body(self) -> str:
        """Return the version that contributed the body; only for a head, it is another version."""
        return body_of(self.version)

    @property
    def is_head(self) -> bool:
        """Return whether this version is a head: a new last layer on another version's body."""
        return self.body != self.version

    @property
    def temperature(self) -> float:
        """Return the temperature that divides the log-probabilities."""
        return self.calibration.temperature if self.calibration else 1.0
