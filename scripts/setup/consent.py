"""Ask the user whether to carry out what a command has described."""

from __future__ import annotations

import sys
from typing import Literal

from backend.base.errors import SettingsError

Consent = Literal["ask", "given", "dry run"]


def has_consent(consent: Consent, question: str) -> bool:
    """Return whether to go on; ask the user if necessary.

    Raises SettingsError if there is no terminal on which to ask.
    """
    if consent == "dry run":
        print("--dry-run: nothing was changed")
        return False
    if consent == "given":
        return True
    if not sys.stdin.isatty():
        raise SettingsError(
            "nothing was changed, because there is no terminal on which to confirm: add --yes"
        )
    if input(f"{question} [y/N] ").strip().lower() in ("y", "yes"):
        return True
    print("nothing was changed")
    return False
