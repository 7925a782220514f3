"""What GET /status tells, as types; its JSON, the dashboard, the metrics, `scripts.status` and the
tables of docs/status.md all come from these fields and their descriptions.
"""

from __future__ import annotations

from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
)

from backend.measures.evaluation import Evaluation
from backend.measures.forecast import CurvePoint, Forecast
from backend.queue.services import Service
from backend.store.annotator_figures import AnnotatorFigures
from backend.store.open_image import AskedImage


def _is_none(value: object) -> bool:
    return value is None


class Confusion(BaseModel):
    """How the version in service classifies the validation images."""

    model_config = ConfigDict(frozen=True)

    classes: tuple[str, ...] = Field(description="the classes, in the order of rows and columns")
    counts: tuple[tuple[int, ...], ...] = Field(
        description="images: a row per true class, a column per predicted class"
    )


class JobStatus(BaseModel):
    """A job that waits or runs."""

    model_config = ConfigDict(frozen=True)

    job: str = Field(
        description="`retrain`; or `rank` until it has begun, then its step: `read`, `refit`, "
        "`top_up`, `refresh` or `collect_reviews`"
    )
    queue: str = Field(description="`train` for `retrain`, `rank` for the others")
    status: str = Field(description="`queued`, `started`, … as RQ calls it")
    phase: str | None = Field(
        None, exclude_if=_is_none, description="what it is doing; absent before the first report"
    )
    done: int | None = Field(
        None,
        exclude_if=_is_none,
        description="how far it is: steps of a training, MB of a download, otherwise images; "
        "absent before the first report",
    )
    total: int | None = Field(
        None,
        exclude_if=_is_none,
        description="out of how many, 0 if unknown; absent before the first report",
    )
    seconds_left: float | None = Field(description="seconds until this phase ends")


class LastError(BaseModel):
    """An error that a job met lately."""

    model_config = ConfigDict(frozen=True)

    at: str = Field(description="when")
    where: str = Field(description="in which job")
    message: str = Field(description="what is wrong and what to do")


class ProjectStatus(BaseModel):
    """Where one project is: round, versions, labels, queue, jobs, what comes next."""

    model_config = ConfigDict(frozen=True)

    project_id: int = Field(description="as in Label Studio")
    title: str | None = Field(description="as in Label Studio")
    label_url: str = Field(description="where people label")
    notices: tuple[str, ...] = Field(
        description="what everyone must know, for example that the digits stand in for CIFAR-10, "
        "or which weights will be deleted"
    )
    pool: str | None = Field(description="which images set-up chose")
    weights: str | None = Field(description="which weights every training starts from")
    train: str = Field(description="the setting `TRAIN`")
    strategy: str = Field(description="the setting `STRATEGY`")
    round: int = Field(description="the newest round")
    rounds: int = Field(description="after how many rounds no more images are asked (0: no end)")
    is_finished: bool = Field(description="everything is answered, and nothing more will be asked")
    version: str | None = Field(description="the model version in service")
    validation: Evaluation | None = Field(description="how good it is on the validation images")
    test: Evaluation | None = Field(description="how good it is on the test images")
    trained_on_labels: int = Field(description="how many labels it learned from")
    labels_per_class: dict[str, int] = Field(description="the same by class")
    confusion: Confusion | None = Field(description="which class it takes for which")
    outlook: Forecast | None = Field(
        description="what more labels should gain, from the third full version on"
    )
    versions: int = Field(description="how many sound versions there are, pruned ones among them")
    learning_curve: tuple[CurvePoint, ...] = Field(description="each of them, oldest first")
    training_seconds: dict[str, float] = Field(
        description="how long each phase of the newest full training took"
    )
    refused: dict[str, str] = Field(
        description="versions that were not promoted automatically, with the reason"
    )
    broken_versions: dict[str, str] = Field(
        description="folders of versions that cannot be read, with the reason"
    )
    annotations: int | None = Field(description="answers in Label Studio")
    skipped: int | None = Field(description="how often a person declined to answer")
    open_tasks: int | None = Field(description="images that wait for their first answer")
    asked_again: int | None = Field(description="images that wait for another person's answer")
    # The images themselves have a picture each, for the dashboard; AskedImage is what is told.
    next_images: tuple[AskedImage, ...] = Field(
        description="the first of both kinds, in the order of asking"
    )
    new_annotations: int = Field(description="answers that no training has read yet")
    retrain_after: int = Field(description="at how many of them a training is due")
    waiting_for: str | None = Field(description="why there cannot be a training yet")
    left_out: dict[str, int] = Field(
        description="answers that the newest version could not learn from, by reason"
    )
    annotators: tuple[AnnotatorFigures, ...] = Field(
        description="how each person does, as of the last training, least reliable first"
    )
    jobs: tuple[JobStatus, ...] = Field(description="what waits or runs")
    workers: dict[str, int] = Field(
        description="how many trainers (`train`) and rankers (`rank`) there are"
    )
    errors: tuple[LastError, ...] = Field(description="the last ten errors, newest first")


class Status(BaseModel):
    """The answer of GET /status."""

    model_config = ConfigDict(frozen=True)

    services: tuple[Service, ...] = Field(
        description="`trainer`, `ranker`, `label_studio`, `backend` and `clock`"
    )
    projects: tuple[ProjectStatus, ...] = Field(description="every project that can be read")
    unreadable: dict[str, str] = Field(
        description="projects with a damaged file, by id, with what to do"
    )

    def as_json(self) -> dict[str, Any]:
        """Return what json.dumps takes."""
        return self.model_dump(mode="json")
