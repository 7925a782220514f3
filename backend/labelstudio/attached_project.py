"""Read and change a project whose tasks belong to its team: we only add predictions to them."""

from __future__ import annotations

from backend.base.settings import Settings
from backend.labelstudio.project import LabelStudioProject
from backend.store.project_record import project_root, read_record


class AttachedProject(LabelStudioProject):
    """A Label Studio project that existed before Tightloop was attached to it.

    An image is identified by its task, and whatever the task's data calls `image_id` is ignored.
    Our versions are named after the project (`tl12-r0007`) in Label Studio, and `r0007` here; the
    predictions of all other versions belong to the team.
    """


def open_project(settings: Settings, project_id: int) -> LabelStudioProject:
    """Connect to a project; its record tells whether Tightloop is attached to it."""
    record = read_record(project_root(settings.model_dir, project_id))
    kind = AttachedProject if record is not None and record.is_attached else LabelStudioProject
    token = settings.label_studio_api_key.get_secret_value()
    return kind(settings.label_studio_url, token, project_id)
