"""Define the fields of an adapted body's meta.json and their valid values."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, Field

from backend.images.framing import FramingName, View

PRETRAINED = "pretrained"  # as a start: the weights that WEIGHTS names
BODY_NAME = re.compile(r"a[0-9]{4,}")
START = re.compile(f"{PRETRAINED}|{BODY_NAME.pattern}")

Count = Annotated[int, Field(ge=0, le=10**9)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
BodyName = Annotated[str, Field(pattern=f"^{BODY_NAME.pattern}$")]
StartName = Annotated[str, Field(pattern=f"^({START.pattern})$")]


class BodyComparison(BaseModel, frozen=True):
    """The accuracy of a head on the new body and of one on another start, on the same labels."""

    against: StartName = PRETRAINED
    labels: Count  # that each head was fitted to
    validation_images: Count
    accuracy_before: Share  # on the other start
    accuracy_after: Share  # on the new body
    p_value: Share | None  # of McNemar's test; None if there were too few validation labels


class BodyMeta(BaseModel, frozen=True):
    """An adapted body's metadata, as stored in meta.json."""

    name: BodyName
    created_at: AwareDatetime
    made_from: str = Field(min_length=1)  # another body, or the name of the pre-trained weights
    pool: str
    image_size: int = Field(ge=16, le=512, multiple_of=8)
    framing: FramingName
    n_images: Count
    pool_images: Count = 0  # that could be queried when adapting began; 0 = not recorded
    images_fingerprint: str
    steps: Count
    batch_size: Count
    passes: Amount  # over the pool
    seconds: Amount  # spent on adapting
    torch: str
    device: str
    comparison: BodyComparison | None = None  # None if it could not be compared
    refused: str | None = None  # why training does not start from it automatically
    sha256: str = ""  # of model.safetensors; set by `Bodies.save`
    # Identifies the embeddings and becomes part of a file name; set by `Bodies.save`.
    body_key: str = Field("", pattern="^[0-9a-f]*$")
    pruned_at: AwareDatetime | None = None  # when the weights were deleted

    @property
    def is_accepted(self) -> bool:
        """Return whether training may start from this body unless a person chooses otherwise."""
        return self.refused is None and self.pruned_at is None

    @property
    def view(self) -> View:
        """Return how images were framed and resized for adapting."""
        return View(self.image_size, self.framing)


def body_order(name: str) -> int:
    """Return a key that sorts bodies by creation."""
    return int(name[1:])
