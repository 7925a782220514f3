"""Choose how new tasks refer to images: an address, a data: URI, or an upload to Label Studio."""

from __future__ import annotations

from collections.abc import Sequence

from backend.base.labeling import LabelingProject, TaskImage
from backend.base.settings import Settings
from backend.images.data_uri import data_uri
from backend.images.pool import Pool

# Images up to this size are stored in the task. Larger images are uploaded, because every reading
# of tasks and every webhook transfers the tasks' data.
DATA_URI_MAX_BYTES = 50_000
# The limits of one upload request. Label Studio refuses more than 100 files, or 250 MB.
UPLOAD_MAX_FILES, UPLOAD_MAX_BYTES = 100, 50_000_000


def show_images(
    pool: Pool, project: LabelingProject, image_ids: Sequence[str], settings: Settings
) -> dict[str, str]:
    """Return the address or data: URI for the task of each image; upload large images to `project`.

    If the tasks are not created afterwards, the uploads remain, which does no harm.
    """
    shown: dict[str, str] = {}
    large: dict[str, TaskImage] = {}
    source = pool.source if settings.task_images == "url" else None
    takes_uploads = project.label_config().takes_uploads
    for image_id in image_ids:
        if source is not None and (url := source.url(image_id)):
            shown[image_id] = url
            continue
        image = pool.task_image(image_id, settings.task_image_px)
        if len(image.content) <= DATA_URI_MAX_BYTES or not takes_uploads:
            shown[image_id] = data_uri(image)
            continue
        n_bytes = sum(len(other.content) for other in large.values()) + len(image.content)
        if large and (len(large) == UPLOAD_MAX_FILES or n_bytes > UPLOAD_MAX_BYTES):
            shown |= project.upload(large)
            large = {}
        large[image_id] = image
    return shown | project.upload(large)
