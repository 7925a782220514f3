"""Encode images as data: URIs for tasks and pages, and recognize such addresses."""

from __future__ import annotations

import base64

from backend.base.labeling import TaskImage


def data_uri(image: TaskImage) -> str:
    """Return the image as a data: URI."""
    return f"data:{image.mime};base64,{base64.b64encode(image.content).decode()}"


def is_data_uri(address: str) -> bool:
    """Return whether an image's address contains the image itself."""
    return address[:5].lower() == "data:"
