"""Hash text into short names and into random draws that are the same on every machine."""

from __future__ import annotations

import hashlib


def digest(text: str) -> str:
    """Return 16 hexadecimal digits of a hash.

    As the id of an image file, it hides the class in its path from annotators.
    """
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
