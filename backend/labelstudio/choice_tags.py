"""Write the Choice tags for a label config."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import quoteattr

HOTKEYS = "1234567890"


def choice_tags(classes: Sequence[str]) -> str:
    """Return one Choice tag for each class; the first ten tags have a hotkey."""
    return "\n".join(
        f"      <Choice value={quoteattr(name)}"
        + (f' hotkey="{HOTKEYS[i]}"' if i < len(HOTKEYS) else "")
        + "/>"
        for i, name in enumerate(classes)
    )
