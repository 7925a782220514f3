"""Define the types of the response of GET /status.

The JSON, the dashboard, the metrics, `scripts.status` and the tables of docs/status.md are all
generated from these fields and their descriptions.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from backend.measures.evaluation import Evaluation
from backend.measures.forecast import CurvePoint, Forecast
from backend.people.validation_labels import ValidationProgress
from backend.queue.services import Service
from backend.rounds.adaptation_progress import AdaptationProgress
from backend.rounds.finish_progress import FinishProgress
from backend.store.project_rows import AnnotatorFigures, AskedImage, FinishOutlook, KeptError


def _is_none(value: object) -> bool:
    return value is None


class StatusPart(BaseModel):
    """An object in the response of GET /status."""

    model_config = ConfigDict(frozen=True)


class Confusion(StatusPart):
    """How the version in service classifies the validation images."""

    classes: tuple[str, ...] = Field(description="the classes, in the order of rows and columns")
    counts: tuple[tuple[int, ...], ...] = Field(
        description="numbers of images, with a row per true class and a column per predicted class"
    )


class JobStatus(StatusPart):
    """A job that is queued or running."""

    job: str = Field(
        description="`retrain`, `rescan`, `adapt` or `rank`; for a `rank` job that has started, "
        "its step: `read`, `refit`, `finish`, `top_up`, `refresh`, `export` or `collect_reviews`"
    )
    queue: str = Field(
        description="`train` for `retrain`, `rescan` and `adapt`, `rank` for the others"
    )
    status: str = Field(description="RQ's status: `queued`, `started`, …")
    phase: str | None = Field(
        None, exclude_if=_is_none, description="the current phase; absent before the first report"
    )
    done: int | None = Field(
        None,
        exclude_if=_is_none,
        description="progress in this phase, in training steps, downloaded MB, seconds of "
        "adapting, or images; absent before the first report",
    )
    total: int | None = Field(
        None,
        exclude_if=_is_none,
        description="the total for this phase, or 0 if unknown; absent before the first report",
    )
    seconds_left: float | None = Field(description="estimated seconds until this phase ends")


class ProjectStatus(StatusPart):
    """The state of one project: round, versions, labels, queue, jobs, next images."""

    project_id: int = Field(description="the project's id in Label Studio")
    title: str | None = Field(description="the project's title in Label Studio")
    label_url: str = Field(description="the address at which annotators label")
    notices: tuple[str, ...] = Field(
        description="important notices, for example that the digits replace CIFAR-10, or which "
        "weights will be deleted"
    )
    is_attached: bool = Field(
        description="whether Tightloop was attached to this project, whose tasks belong to its team"
    )
    is_gone: bool = Field(
        description="whether the project is gone from Label Studio; the notice says what to do"
    )
    order_problem: str | None = Field(
        description="why annotators do not get the images that the model asks for, and what to do; "
        "null if they do"
    )
    pool: str | None = Field(description="the pool chosen during set-up")
    may_pool_change: bool = Field(
        description="whether images can be added to the pool; false for CIFAR-10 and the digits"
    )
    pool_images: int | None = Field(
        description="images in the pool that are decoded and can be queried; null until they are "
        "counted"
    )
    undecoded_images: int = Field(description="images in the pool that are waiting to be decoded")
    rescanned_at: str | None = Field(description="when the pool was last searched for new images")
    weights: str | None = Field(
        description="the weights that training runs start from until the body is adapted"
    )
    adaptation: AdaptationProgress = Field(
        description="how far the body is adapted to the pool, and what that brought"
    )
    train: str = Field(description="the setting `TRAIN`")
    strategy: str = Field(description="the strategy that chooses the images to query next")
    goal: str = Field(description="the setting `GOAL`")
    round: int = Field(description="the newest round")
    rounds: int = Field(description="the last round that queries images (0: no limit)")
    is_finished: bool = Field(
        description="whether every queried image is annotated and no more will be queried, "
        "unless images are added to the pool"
    )
    version: str | None = Field(description="the model version in service")
    validation: Evaluation | None = Field(
        description="accuracy of `version` on the validation images"
    )
    validation_by: Literal["known", "people"] = Field(
        description="where the validation labels come from: `known` if they were known from the "
        "start, `people` if annotators label a random sample"
    )
    validation_labels: ValidationProgress | None = Field(
        description="how many validation images annotators have labeled; null if the labels are "
        "known"
    )
    cross_validation: Evaluation | None = Field(
        description="an estimate of the accuracy from the training labels, which is biased because "
        "hard images are chosen for training; null once annotators have labeled enough images "
        "(100, or `VALIDATION_LABELS` if that is less), or if the labels are known"
    )
    test: Evaluation | None = Field(description="accuracy of `version` on the test images")
    trained_on_labels: int = Field(description="how many labels `version` was trained on")
    labels_per_class: dict[str, int] = Field(description="how many of these labels each class has")
    confusion: Confusion | None = Field(description="which classes `version` confuses")
    outlook: Forecast | None = Field(
        description="the expected gain from more labels; available from the third full version on"
    )
    versions: int = Field(description="the number of sound versions, including pruned ones")
    learning_curve: tuple[CurvePoint, ...] = Field(
        description="one entry per sound version, oldest first"
    )
    training_seconds: dict[str, float] = Field(
        description="how many seconds each phase of the newest full training run took"
    )
    refused: dict[str, str] = Field(
        description="versions that were not promoted automatically, with the reason"
    )
    broken_versions: dict[str, str] = Field(
        description="version folders that cannot be read, with the reason"
    )
    finish: FinishProgress | None = Field(
        description="the last try to have the model label the rest of the images; null before the "
        "first"
    )
    finish_wanted: float | None = Field(
        description="the largest share of wrong labels in a try that a person has requested and "
        "that has not begun yet"
    )
    finish_outlook: tuple[FinishOutlook, ...] = Field(
        description="what the model could label now if at most 2, 5 or 10 % of its labels may be "
        "wrong; empty until this is known"
    )
    annotations: int | None = Field(
        description="annotations in Label Studio, not counting skipped images"
    )
    skipped: int | None = Field(description="how many times annotators skipped an image")
    learned_annotations: int | None = Field(
        description="annotations that the newest version, or an earlier one with the same labels, "
        "has learned; null until the first training run, and after an update until the next one"
    )
    unlearned_annotations: dict[str, int] = Field(
        description="the other annotations, including skipped images, by reason: `new`, `skipped`, "
        "`empty`, `another control`, `removed class`, `unknown class`, `not of the pool`, `image "
        "not available`, `validation image`, `foreign task`, or `overruled` by other annotations. "
        "Together with `learned_annotations`, they add up to `annotations` plus `skipped`"
    )
    open_tasks: int | None = Field(
        description="queried images awaiting their first annotation; open tasks that Tightloop "
        "did not ask for are not counted"
    )
    asked_again: int | None = Field(
        description="images awaiting another person's annotation (a second opinion)"
    )
    # The dashboard needs the thumbnail of each OpenImage; the JSON has only AskedImage's fields.
    next_images: tuple[AskedImage, ...] = Field(
        description="the next images among `open_tasks` and `asked_again`, in labeling order"
    )
    new_annotations: int = Field(description="annotations that no training run has read yet")
    retrain_after: int = Field(
        description="how many new annotations are needed for the next training run"
    )
    waiting_for: str | None = Field(description="the reason why training is not possible yet")
    left_out: dict[str, int] = Field(
        description="annotations that the newest version could not use, by reason"
    )
    annotators: tuple[AnnotatorFigures, ...] = Field(
        description="figures for each annotator as of the last training run, least reliable first"
    )
    jobs: tuple[JobStatus, ...] = Field(description="jobs that are queued or running")
    workers: dict[str, int] = Field(
        description="how many trainers (`train`) and rankers (`rank`) are running"
    )
    errors: tuple[KeptError, ...] = Field(description="the last ten errors, newest first")


class Status(StatusPart):
    """The response of GET /status."""

    services: tuple[Service, ...] = Field(
        description="`trainer`, `ranker`, `label_studio`, `backend` and `clock`"
    )
    projects: tuple[ProjectStatus, ...] = Field(description="every project that can be read")
    unreadable: dict[str, str] = Field(
        description="projects that have a damaged file, by id, each with the remedy"
    )

    def as_json(self) -> dict[str, Any]:
        """Return the status in a form that json.dumps accepts."""
        return self.model_dump(mode="json")
