"""Hash text, for short names and for random draws that are the same on every machine."""

from __future__ import annotations

import hashlib


def digest(text: str) -> str:
    """Return a hash of 16 hexadecimal digits.

    When used as the id of an image file, the hash hides the class in the file's path from
    annotators.
    """
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
