"""Record that a class was renamed, so that its annotations count for the new name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backend.base.classes import ClassList, fold
from backend.base.errors import LabelConfigError, SettingsError
from backend.base.settings import Settings
from backend.labelstudio.attached_project import open_project
from backend.rounds.classes import follow_classes, rename_classes
from backend.store.project_record import project_root
from backend.store.project_store import ProjectStore
from scripts.setup.projects import find_record


def rename(settings: Settings, title: str | None, pairs: Sequence[str]) -> int:
    """Record former and new names, given as "old=new"; return the project's id.

    Nothing changes in Label Studio, whose annotations keep the former names.
    """
    record = find_record(settings.model_dir, title)
    if record is None:
        raise SettingsError(
            f'no project is called "{title}": use --title to name the project whose class was '
            "renamed"
        )
    root = project_root(settings.model_dir, record.project_id)
    choices = open_project(settings, record.project_id).label_config().choices
    followed = follow_classes(root, choices)
    assert followed is not None, "the project is recorded"
    classes, label_counts = followed.offering(choices), ProjectStore(root).label_counts()
    names = [read_pair(pair, classes, label_counts) for pair in pairs]
    rename_classes(root, names)
    for former, new in names:
        count = sum(n for label, n in label_counts.items() if fold(label) == fold(former))
        print(f"classes   {former} is now {new}: {count:,} annotations count for the new name")
    print("model     learns these labels in a moment")
    return record.project_id


def read_pair(pair: str, classes: ClassList, label_counts: Mapping[str, int]) -> tuple[str, str]:
    """Return the former and the new name. Raises an error that states what is wrong."""
    former, equals, new = (part.strip() for part in pair.partition("="))
    if not (former and equals and new):
        raise SettingsError(f"--rename {pair}: write the former and the new name as old=new")
    current = [*map(fold, classes.current)]
    if fold(new) not in current:
        raise LabelConfigError(
            f'"{new}" is not among the label config\'s choices ({", ".join(classes.current)}): '
            "rename the class in Label Studio first, under Settings > Labeling Interface"
        )
    if fold(former) in current:
        raise LabelConfigError(
            f'"{former}" is still among the label config\'s choices, so its annotations count for '
            "it: rename or remove it in Label Studio first, under Settings > Labeling Interface"
        )
    if not classes.was_known(former) and former not in label_counts:
        known = {n for n in (*classes.columns, *label_counts) if fold(n) not in current}
        raise SettingsError(
            f'no annotation is labeled "{former}", and no class had this name; names that the '
            f"label config no longer offers: {', '.join(sorted(known)) or 'none'}"
        )
    return former, new
