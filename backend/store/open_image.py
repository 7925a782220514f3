"""Describe images that await annotation so that they can be shown outside Label Studio."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from backend.store.version_meta import Probability

OPEN_IMAGES_KEPT = 48


class AskedImage(BaseModel):
    """An image that awaits annotation."""

    model_config = ConfigDict(frozen=True)

    image_id: str = Field(description="the id of the image")
    confidence: Probability = Field(
        description="the model's confidence; the least confident image is asked first"
    )
    guesses: tuple[tuple[str, Probability], ...] = Field(
        description="the three most likely labels, each with its probability; empty without a "
        "model or with `BLIND=true`"
    )
    is_again: bool = Field(
        description="whether it is already annotated and awaits another annotator"
    )


class OpenImage(AskedImage):
    """An image that awaits annotation, with its picture."""

    picture: str = Field(pattern="^data:")
