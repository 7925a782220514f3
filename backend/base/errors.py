"""What can go wrong, as a tree. Every message says what is wrong and what to do about it.

TightloopError
├── SettingsError            a setting is missing or has a bad value
├── DeviceError              the GPU that was asked for is not there
├── PoolError                the images cannot be had, or too few are left
├── WeightsError             the pre-trained weights cannot be had
├── ImageError               one image cannot be read; costs its own prediction only
├── LabelConfigError         the project's label config does not fit
├── LabelStudioError         Label Studio cannot be reached, or refused
├── ModelFolderError         the model folder cannot be read or written
│   ├── BrokenVersionError   one version folder is corrupt, half-written or foreign
│   └── StoreError           a project's database cannot be read or written
├── QueueError               Redis cannot be reached
├── BackendError             the dashboard cannot reach the backend, or is refused by it
├── NoModelError             something needs a model version and there is none yet
├── TooFewLabelsError        not enough labels or classes to train on
└── TrainingError            the training went wrong: its loss is no number
"""

from __future__ import annotations


class TightloopError(Exception):
    """Base of all errors that a door may show to people: the message holds no secret."""


class SettingsError(TightloopError):
    """A setting is missing or has a bad value."""


class DeviceError(TightloopError):
    """The GPU that was asked for is not there."""


class PoolError(TightloopError):
    """The images cannot be had, or too few are left."""


class WeightsError(TightloopError):
    """The pre-trained weights cannot be had."""


class ImageError(TightloopError):
    """One image cannot be read."""


class LabelConfigError(TightloopError):
    """The project's label config does not fit the pool or the model."""


class LabelStudioError(TightloopError):
    """Label Studio cannot be reached, or refused a request."""


class ModelFolderError(TightloopError):
    """The model folder cannot be read or written."""


class BrokenVersionError(ModelFolderError):
    """One version folder is corrupt, half-written or foreign."""


class StoreError(ModelFolderError):
    """A project's database cannot be read or written."""


class QueueError(TightloopError):
    """Redis cannot be reached."""


class BackendError(TightloopError):
    """The dashboard cannot reach the backend, or is refused by it."""


class NoModelError(TightloopError):
    """Something needs a model version and there is none yet."""


class TooFewLabelsError(TightloopError):
    """Not enough labels or classes to train on."""


class TrainingError(TightloopError):
    """The training went wrong: its loss is no number."""
