"""Check and replace the project's label config, and adapt it to the settings and the pool."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backend.base.classes import is_same
from backend.base.errors import LabelConfigError
from backend.base.labeling import match_classes
from backend.base.settings import Settings
from backend.images.pool import Pool
from backend.labelstudio.label_config import (
    is_our_label_config,
    label_config_xml,
    parse_label_config,
)
from backend.labelstudio.project_setup import ProjectSetup


def read_label_config(path: Path) -> str:
    """Return the text of a label config file. Raises LabelConfigError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LabelConfigError(f"the label config {path} cannot be read: {error}") from None


def check_label_config(xml: str, pool_classes: Sequence[str]) -> None:
    """Raise LabelConfigError unless the config offers the pool's classes and shows our images."""
    config = parse_label_config(xml)
    match_classes(config.choices, pool_classes)
    if config.image_key != "image":
        raise LabelConfigError(
            f'the label config\'s Image has value="${config.image_key}", but tasks store their '
            'image as "image": write value="$image"'
        )


def replace_label_config(project: ProjectSetup, xml: str) -> bool:
    """Use a label config that the user wrote; return whether it differs from the current one.

    Raises LabelConfigError if the new config renames anything that annotations and predictions
    refer to: Label Studio would accept the config, but we could no longer read the annotations.
    """
    now, wanted = project.label_config(), parse_label_config(xml)
    if (now.from_name, now.to_name) != (wanted.from_name, wanted.to_name):
        raise LabelConfigError(
            f'the label config must have name="{now.from_name}" in its Choices and '
            f'name="{now.to_name}" in its Image, as the existing annotations do'
        )
    if not is_same(now.choices, wanted.choices):
        print(
            "NOTE      the project's label config was kept, because its classes have changed in "
            f"Label Studio since LABEL_CONFIG was written: {', '.join(now.choices)}"
        )
        return False
    if set(now.choices) != set(wanted.choices):
        raise LabelConfigError(
            "the label config must spell its choices as the existing annotations do: "
            f"{', '.join(now.choices)}"
        )
    return project.change_label_config(xml)


def adapt_label_config(settings: Settings, project: ProjectSetup, pool: Pool) -> bool:
    """Adapt a label config that we wrote to HINTS, BLIND and the size of the pool's images.

    For the user's own label config, print what to change. Returns whether the config was changed.
    """
    if settings.blind and settings.hints:
        print("NOTE      BLIND=true hides the model's guess, so HINTS=true has no effect")
    xml = project.label_config_xml()
    if is_our_label_config(xml):
        choices = parse_label_config(xml).choices
        return project.change_label_config(
            label_config_xml(choices, has_hint=settings.shows_hints, is_large=pool.has_large_images)
        )
    if settings.shows_hints and "$hint" not in xml:
        print(
            "NOTE      HINTS=true has no effect on your own label config: to show hints, add "
            '<Header value="$hint"/>'
        )
    if settings.blind and "$hint" in xml:
        print("NOTE      BLIND=true is set, but your own label config shows $hint: remove that tag")
    return False
