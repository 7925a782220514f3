"""Describe the version in service in one human-readable sentence."""

from __future__ import annotations

from backend.labelstudio.project import OUR_DESCRIPTION
from backend.measures.evaluation import Evaluation, describe_accuracy
from backend.store.version_meta import Meta

NO_MODEL = "no model yet"


def describe_version(version: str, validation: Evaluation | None, labels: int) -> str:
    """Return the name of the version in service, its accuracy and its number of labels."""
    return f"{version} in service, {describe_accuracy(validation)}, trained on {labels:,} labels"


def describe_project(version: Meta | None) -> str:
    """Return the project's description in Label Studio."""
    round_, model = 0, NO_MODEL
    if version is not None:
        round_ = version.round
        model = describe_version(version.version, version.validation, version.labels)
    return f"{OUR_DESCRIPTION} {round_}: {model}. Press Label All Tasks."
