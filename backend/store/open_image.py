"""Describe images that await annotation, to show them outside Label Studio."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from backend.store.version_meta import Probability

OPEN_IMAGES_KEPT = 48


class AskedImage(BaseModel):
    """An image that awaits annotation."""

    model_config = ConfigDict(frozen=True)

    image_id: str = Field(description="the id of the image")
    confidence: Probability = Field(description="the lowest is asked first")
    guesses: tuple[tuple[str, Probability], ...] = Field(
        description="the three likeliest labels, each with its probability; empty without a model "
        "and with `BLIND=true`"
    )
    is_again: bool = Field(description="it is annotated, and another annotator is asked as well")


class OpenImage(AskedImage):
    """An image that awaits annotation, with its picture."""

    picture: str = Field(pattern="^data:")
