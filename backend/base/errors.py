"""Define all errors, as a tree. Every message states what is wrong and what to do about it.

TightloopError
├── SettingsError            a setting is missing or has a bad value
├── DeviceError              DEVICE=cuda, but no GPU was found
├── PoolError                the images cannot be read or downloaded, or there are too few
├── WeightsError             the pre-trained weights cannot be read or downloaded
├── ImageError               one image cannot be read, so it gets no prediction
├── LabelConfigError         the project's label config does not match the pool or the model
├── LabelFileError           a file of labels cannot be imported
├── LabelStudioError         Label Studio cannot be reached, or it refused a request
│   ├── DatabaseError        Label Studio's database failed, perhaps only for a moment
│   └── ProjectGoneError     Label Studio no longer has the project
├── ModelFolderError         the model folder cannot be read or written
│   ├── BrokenVersionError   one version folder is corrupt, incomplete or foreign
│   ├── RowsLostError        a file of embeddings or scores was damaged, and was removed
│   └── StoreError           a project's database cannot be read or written
├── DetachedError            Tightloop was detached from the project while a job was running
├── ExportError              a file or folder of results cannot be written, or exists already
├── QueueError               Redis cannot be reached
├── ScaleError               the Ray cluster cannot be reached, or its machines do not match
├── BackendError             the dashboard cannot reach the backend, or its request was refused
├── NoModelError             no usable model version exists yet
├── TooFewLabelsError        there are too few labels or classes to train on
├── TrainingError            training diverged: the loss is NaN
├── AdaptationError          a body cannot be adapted to the pool, or its training not resumed
└── FinishError              the model cannot label the rest of the images now
"""

from __future__ import annotations


class TightloopError(Exception):
    """The base of all errors that may be shown to users: no message contains a secret."""


class SettingsError(TightloopError):
    """A setting is missing or has a bad value."""


class DeviceError(TightloopError):
    """DEVICE=cuda, but no GPU was found."""


class PoolError(TightloopError):
    """The images cannot be read or downloaded, or there are too few."""


class WeightsError(TightloopError):
    """The pre-trained weights cannot be read or downloaded."""


class ImageError(TightloopError):
    """One image cannot be read."""


class LabelConfigError(TightloopError):
    """The project's label config does not match the pool or the model."""


class LabelFileError(TightloopError):
    """A file of labels cannot be imported."""


class LabelStudioError(TightloopError):
    """Label Studio cannot be reached, or it refused a request.

    `status` is the HTTP status with which it answered, or None if it did not answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class DatabaseError(LabelStudioError):
    """Label Studio's database failed, perhaps only for a moment."""


class ProjectGoneError(LabelStudioError):
    """Label Studio no longer has the project.

    `is_replaced` states whether another project now has its id.
    """

    def __init__(self, url: str, status: int | None = None, *, is_replaced: bool = False) -> None:
        super().__init__(
            f"Label Studio at {url} no longer has this project: run `python -m scripts.status`, "
            "which says what to do",
            status,
        )
        self.is_replaced = is_replaced


class ModelFolderError(TightloopError):
    """The model folder cannot be read or written."""


class BrokenVersionError(ModelFolderError):
    """One version folder is corrupt, incomplete or foreign."""


class RowsLostError(ModelFolderError):
    """A file of embeddings or scores was damaged. It was removed, so it is computed again."""


class StoreError(ModelFolderError):
    """A project's database cannot be read or written."""


class DetachedError(TightloopError):
    """Tightloop was detached from the project while a job was running."""


class ExportError(TightloopError):
    """A file or folder of results cannot be written, or it exists already."""


class QueueError(TightloopError):
    """Redis cannot be reached."""


class ScaleError(TightloopError):
    """The Ray cluster cannot be reached, or its machines do not match this one."""


class BackendError(TightloopError):
    """The dashboard cannot reach the backend, or its request was refused."""


class NoModelError(TightloopError):
    """No usable model version exists yet."""


class TooFewLabelsError(TightloopError):
    """There are too few labels or classes to train on."""


class TrainingError(TightloopError):
    """Training diverged: the loss is NaN."""


class AdaptationError(TightloopError):
    """A body cannot be adapted to the pool, or its training cannot be resumed."""


class FinishError(TightloopError):
    """The model cannot label the rest of the images now."""
