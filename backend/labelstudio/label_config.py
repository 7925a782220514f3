"""Write our label config and read any project's: one Image, and one Choices tag for it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product
from math import inf
from xml.etree.ElementTree import ParseError
from xml.sax.saxutils import quoteattr

from defusedxml.ElementTree import fromstring

from backend.base.errors import LabelConfigError
from backend.base.labeling import LabelConfig

HOTKEYS = "1234567890"
ONE_COLUMN = 20  # choices; with more in one column, annotators would have to scroll
HINT = '\n    <Header value="$hint" style="margin: 8px 0; font-size: 14px; line-height: 20px"/>'


def label_config_xml(
    classes: Sequence[str],
    *,
    has_hint: bool = False,
    smoothing: bool = True,
    columns_above: float = ONE_COLUMN,
) -> str:
    """Return a label config with the image (400 px wide) beside the choices (hotkeys 1-9, 0).

    With `has_hint`, the task's text about the model's guess is shown below the image. Earlier
    releases drew the image without `smoothing` and had no columns.
    """
    choices = "\n".join(
        f"      <Choice value={quoteattr(name)}"
        + (f' hotkey="{HOTKEYS[i]}"' if i < len(HOTKEYS) else "")
        + "/>"
        for i, name in enumerate(classes)
    )
    style, columns = "", ""
    smooth = str(smoothing).lower()
    if len(classes) > columns_above:
        style = "\n  <Style>.lsf-choice { break-inside: avoid; overflow-wrap: anywhere }</Style>"
        columns = "; columns: 160px; column-fill: auto; max-height: 600px"
    # Without a size, a 32 px image is enlarged until it pushes the choices off the screen. Without
    # smoothing, it becomes a mosaic that hides what it shows (Harmon & Julesz, Science, 1973).
    return f"""<View style="display: flex; gap: 32px; align-items: flex-start">{style}
  <View style="flex: 0 0 400px">
    <Image name="image" value="$image" smoothing="{smooth}" width="400px" maxWidth="400px" \
maxHeight="400px" zoom="false" zoomControl="false" rotateControl="false"/>{HINT if has_hint else ""}
  </View>
  <View style="flex: 1{columns}">
    <Choices name="label" toName="image" choice="single-radio" required="true" showInline="false">
{choices}
    </Choices>
  </View>
</View>
"""


def is_our_label_config(xml: str) -> bool:
    """Return whether this or an earlier release wrote this label config and no one edited it."""
    choices = parse_label_config(xml).choices
    ours = (
        label_config_xml(
            choices, has_hint=has_hint, smoothing=smoothing, columns_above=columns_above
        )
        for has_hint, smoothing, columns_above in product(
            (False, True), (True, False), (ONE_COLUMN, inf)
        )
    )
    return xml.strip() in {text.strip() for text in ours}


def parse_label_config(xml: str) -> LabelConfig:
    """Read names and choices. Raises LabelConfigError unless there is one Image and one Choices."""
    try:
        tags = list(fromstring(xml, forbid_dtd=True).iter())
    except (ParseError, ValueError, LookupError) as error:  # a DTD, an unknown encoding
        raise LabelConfigError(f"the label config is not XML ({error})") from None
    images = [tag for tag in tags if tag.tag.lower() == "image"]
    controls = [tag for tag in tags if tag.tag.lower() == "choices"]
    if len(images) != 1 or len(controls) != 1:
        raise LabelConfigError(
            f"the label config has {len(images)} Image and {len(controls)} Choices tags; "
            "it must have exactly one of each"
        )
    image, control = images[0], controls[0]
    if control.get("choice", "single") not in ("single", "single-radio"):
        raise LabelConfigError('the label config\'s Choices must have choice="single-radio"')
    from_name, to_name, value = control.get("name"), image.get("name"), image.get("value", "")
    if not from_name or not to_name or control.get("toName") != to_name:
        raise LabelConfigError("the label config's Choices must name the Image in toName")
    if not re.fullmatch(r"\$.+", value):
        raise LabelConfigError('the label config\'s Image must have value="$image", or another key')
    choices = tuple(
        choice.get("alias") or choice.get("value") or ""  # the alias is what annotations carry
        for choice in control.iter()
        if choice.tag.lower() == "choice"
    )
    if not all(choices) or len(choices) < 2:
        raise LabelConfigError("the label config's Choices must hold at least two, with values")
    return LabelConfig(from_name, to_name, image_key=value[1:], choices=choices)
