"""Find changes to the label config that hide the images or make annotations unusable.

Label Studio accepts such changes even if they do not fit the existing tasks and annotations.
Classes may be added and removed; see backend/rounds/classes.py.
"""

from __future__ import annotations

import logging
from typing import Any

from backend.base.labeling import LabelConfig
from backend.labelstudio.task_data import IMAGE
from backend.store.project_record import ProjectRecord
from backend.store.project_store import ProjectStore

log = logging.getLogger(__name__)

CHANGE_BACK = "In Label Studio under Settings > Labeling Interface, change"


def record_label_config(store: ProjectStore, record: ProjectRecord, config: LabelConfig) -> None:
    """Record the names that the label config uses now, and log a new problem once.

    Call this after reading all changes.
    """
    facts = store.facts()
    control, image_key = config.from_name, config.image_key
    was_control = _former(facts.former_control, facts.control, control)
    was_image_key = _former(facts.former_image_key, facts.image_key, image_key)
    if not record.is_attached and image_key != IMAGE:
        was_image_key = IMAGE
    n_unused = _count_other_control(store) if was_control else 0
    is_hidden = bool(was_image_key) and not (record.is_attached and _has_images(store))
    problems = []
    if n_unused:
        problems.append(
            f"The annotations made with the control “{was_control}” ({n_unused:,}) are not used, "
            f"because the label config's Choices are now named “{control}”. "
            f"{CHANGE_BACK} the name back to “{was_control}”."
        )
    if is_hidden:
        problems.append(
            f"Annotators see no images, because the label config's Image now shows “${image_key}”, "
            f"but the tasks have their images under “{was_image_key}”. {CHANGE_BACK} its value "
            f"back to “${was_image_key}”."
        )
    problem = " ".join(problems)
    found: dict[str, Any] = {
        "control": control,
        "former_control": was_control if n_unused else "",
        "image_key": image_key,
        "former_image_key": was_image_key if is_hidden else "",
        "label_config_problem": problem,
    }
    if changed := {name: value for name, value in found.items() if value != getattr(facts, name)}:
        store.record(**changed)
    if problem and problem != facts.label_config_problem:
        log.warning("project %d: %s", record.project_id, problem)


def _former(former: str, last: str, now: str) -> str:
    """Return the name that was used before the current one, or "" if the name has not changed."""
    first = former or last
    return "" if first == now else first


def _count_other_control(store: ProjectStore) -> int:
    return sum(a.is_of_other_control for of_task in store.annotations().values() for a in of_task)


def _has_images(store: ProjectStore) -> bool:
    """Return whether any task of an attached project has an image under the current key."""
    return any(task.address for task in store.listed_tasks())
