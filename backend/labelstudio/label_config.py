"""Write our label config, and read any label config with one Image tag and one Choices tag."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain, product
from xml.etree.ElementTree import Element, ParseError

from defusedxml.ElementTree import fromstring

from backend.base.errors import LabelConfigError
from backend.base.labeling import LabelConfig
from backend.labelstudio.choice_tags import HOTKEYS, choice_tags
from backend.labelstudio.former_label_configs import HINT, former_label_configs

ONE_COLUMN = 20  # the most choices that fit in one column beside a small image without scrolling
# The height of Label Studio's bars and our margins above and below the image and the choices.
AROUND_PX = 136
FILTER_PX = 48
HINT_PX = 56  # two lines of a hint, with their margin
SUPPORTED = (
    "Tightloop supports only single-choice image classification, with one Image and one Choices tag"
)
STYLE = "\n  <Style>.lsf-choice { break-inside: avoid; overflow-wrap: anywhere }</Style>"
FILTER = (
    '\n    <Filter name="filter" toName="label" minlength="0" hotkey="shift+f" '
    'placeholder="Filter the classes (Shift+F)"/>'
)


def label_config_xml(
    classes: Sequence[str], *, has_hint: bool = False, is_large: bool = False
) -> str:
    """Return a label config with the image beside the choices, which have the hotkeys 1-9 and 0.

    With `is_large`, images use the height of the screen and can be zoomed; otherwise, they are
    400 px wide. With `has_hint`, the task's text about the model's guess is shown below the image.
    If there are more choices than hotkeys, the choices get a filter and their own scroll box.
    """
    hint = HINT if has_hint else ""
    if is_large:
        height = f"calc(100vh - {AROUND_PX + HINT_PX * has_hint}px)"
        image_box, choices_box = "flex: 1 1 auto; min-width: 0", "flex: 0 0 240px; min-width: 0"
        image = f'maxHeight="{height}" zoom="true" zoomControl="true"'
    else:
        # Without a size, a 32 px image is enlarged until it pushes the choices off the screen.
        image_box, choices_box = "flex: 0 0 400px", "flex: 1; min-width: 0"
        image = 'width="400px" maxWidth="400px" maxHeight="400px" zoom="false" zoomControl="false"'
    # Without smoothing, a small image becomes a mosaic that hides what it shows (Harmon & Julesz,
    # Science, 1973).
    return f"""<View style="display: flex; gap: 32px; align-items: flex-start">{STYLE}
  <View style="{image_box}">
    <Image name="image" value="$image" smoothing="true" {image} rotateControl="false"/>{hint}
  </View>
  <View style="{choices_box}">{_choices_tags(classes, has_columns=not is_large)}
  </View>
</View>
"""


def _choices_tags(classes: Sequence[str], *, has_columns: bool) -> str:
    tags = f"""
    <Choices name="label" toName="image" choice="single-radio" required="true" showInline="false">
{choice_tags(classes)}
    </Choices>"""
    if len(classes) <= len(HOTKEYS):
        return tags
    columns = ""
    if has_columns and len(classes) > ONE_COLUMN:
        columns = "; columns: 160px; column-fill: auto"
    height = f"calc(100vh - {AROUND_PX + FILTER_PX}px)"
    return f"""{FILTER}
    <View style="max-height: {height}; overflow: auto{columns}">{tags}
    </View>"""


def is_our_label_config(xml: str) -> bool:
    """Return whether this or an earlier release wrote this label config and no one edited it."""
    choices = parse_label_config(xml).choices
    current = (
        label_config_xml(choices, has_hint=has_hint, is_large=is_large)
        for has_hint, is_large in product((False, True), repeat=2)
    )
    ours = chain(current, former_label_configs(choices))
    return xml.strip() in {text.strip() for text in ours}


def parse_label_config(xml: str) -> LabelConfig:
    """Read the tags' names and the choices from a label config.

    Raises LabelConfigError if annotators do not choose exactly one class for one image. The message
    names what Tightloop does not support.
    """
    try:
        tags = list(fromstring(xml, forbid_dtd=True).iter())
    except (ParseError, ValueError, LookupError) as error:  # e.g. a DTD or an unknown encoding
        raise LabelConfigError(f"the label config is not XML ({error})") from None
    image, control = _only_image_and_choices(tags)
    _check_single_choice(control)
    from_name, to_name, value = control.get("name"), image.get("name"), image.get("value", "")
    if image.get("valueList"):
        raise LabelConfigError(
            f"the label config's Image shows several images ({image.get('valueList')}); {SUPPORTED}"
        )
    if not from_name or not to_name or control.get("toName") != to_name:
        raise LabelConfigError("the label config's Choices must name the Image in toName")
    if not re.fullmatch(r"\$.+", value):
        raise LabelConfigError('the label config\'s Image must have value="$image", or another key')
    choices = tuple(
        choice.get("alias") or choice.get("value") or ""  # annotations contain the alias
        for choice in control.iter()
        if choice.tag.lower() == "choice"
    )
    if not all(choices) or len(choices) < 2:
        raise LabelConfigError(
            "the label config's Choices must contain at least two Choice tags with values"
        )
    # Label Studio refuses image uploads if the named tags read more than one key of task data.
    keys = {key for tag in tags if tag.get("name") for key in _data_keys(tag.get("value", ""))}
    return LabelConfig(from_name, to_name, value[1:], choices, takes_uploads=len(keys) == 1)


def _only_image_and_choices(tags: Sequence[Element]) -> tuple[Element, Element]:
    """Return the Image and the Choices tag. Raises LabelConfigError unless there is one of each."""
    images = [tag for tag in tags if tag.tag.lower() == "image"]
    controls = [tag for tag in tags if tag.tag.lower() == "choices"]
    if len(images) == len(controls) == 1:
        return images[0], controls[0]
    found = f"{len(images)} Image and {len(controls)} Choices tags"
    others = sorted({tag.tag for tag in tags if _is_other(tag)})  # e.g. RectangleLabels or Text
    other = f" (and {', '.join(others)})" if others else ""
    raise LabelConfigError(f"the label config has {found}{other}; {SUPPORTED}")


def _is_other(tag: Element) -> bool:
    """Return whether a tag shows something other than an image, or is another kind of control."""
    if tag.tag.lower() in ("image", "choices", "filter", "header"):
        return False
    is_control = tag.get("toName") is not None
    return is_control or (tag.get("value", "").startswith("$") and tag.get("name") is not None)


def _check_single_choice(control: Element) -> None:
    """Raise LabelConfigError unless annotators choose exactly one class for the whole image."""
    kind = control.get("choice", "single")
    if kind not in ("single", "single-radio"):
        raise LabelConfigError(
            f'the label config\'s Choices have choice="{kind}"; {SUPPORTED} '
            '(if every image has one class, set choice="single-radio")'
        )
    for setting, what in (("perRegion", "each region"), ("perItem", "each item")):
        if control.get(setting, "").lower() == "true":
            raise LabelConfigError(
                f'the label config\'s Choices apply to {what} ({setting}="true"); {SUPPORTED}'
            )


def _data_keys(value: str) -> list[str]:
    return re.findall(r"\$(\w+)", value)[:1]
