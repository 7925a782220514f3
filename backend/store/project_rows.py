"""Define the JSON in a project's database: facts, annotators' statistics and open images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import BaseModel, Field, FiniteFloat

from backend.store.version_meta import Probability

OPEN_IMAGES_KEPT = 48

Moment = Annotated[float, Field(ge=0, lt=253_370_764_800)]  # up to the year 9999


class FinishOutlook(BaseModel, frozen=True):
    """What the model could label now if at most a certain share of its labels may be wrong."""

    max_error: float = Field(description="the largest share of wrong labels, 0 to 1")
    model_labels: int = Field(
        description="how many images the model would label; 0 if no confidence threshold makes "
        "that possible yet"
    )
    sample: int = Field(description="how many images people would have to label first")
    allowed_errors: int = Field(description="how many errors in this sample would be allowed")
    pass_probability: Probability = Field(
        description="the estimated probability that the sample contains no more errors than allowed"
    )


class Facts(BaseModel, frozen=True):
    """Individual facts about a project. Times are in seconds since the epoch; 0 means never."""

    # What was read from Label Studio
    read_at: Moment = 0.0  # when the last reading of changed tasks began
    full_read_at: Moment = 0.0  # when the last reading of all tasks began
    read_with: str = ""  # the control and the image key with which all tasks were read
    revision: int = 0  # increases whenever an annotation has changed
    tasks_revision: int = 0  # increases whenever an attached project's tasks have changed
    gone: str = ""  # a notice if Label Studio no longer has the project
    untimed_tasks: tuple[int, ...] = ()  # tasks that can be listed only without lead times
    unlisted_tasks: tuple[int, ...] = ()  # tasks that Label Studio cannot list at all
    # What the loop has learned and done
    train_asked_at: Moment = 0.0  # when a person last requested training
    trained_at: Moment = 0.0  # when the last finished training run began reading
    training_ended_at: Moment = 0.0  # when that run ended
    first_version_at: Moment = 0.0  # when the first training run with enough labels ended
    head_revision: int = 0  # the revision that the last head or training run used
    head_fitted_at: Moment = 0.0
    ordered_by: str = ""  # the version whose predictions order the open tasks
    has_ordered: bool = False  # whether predictions have ordered an attached project's tasks
    order_problem: str = ""  # why the predictions do not order the tasks that annotators get
    control: str = ""  # the name of the label config's Choices
    former_control: str = ""  # an earlier name, whose annotations are not used now
    image_key: str = ""  # the key of the image in a task's data, as the label config names it
    former_image_key: str = ""  # the key under which the tasks have their images
    label_config_problem: str = ""  # why images or annotations cannot be used, and what to do
    connected_to: str = ""  # the backend's address to which Label Studio was last seen connected
    webhook_restored_at: Moment = 0.0  # when the clock last restored the webhook
    backend_restored_at: Moment = 0.0  # when the clock last restored the ML backend connection
    connection_problem: str = ""  # what is wrong with these connections, and what to do
    annotations_per_task: int = 1  # how many annotations the project asks for
    looked_for_again: int = 0  # the revision at the last search for tasks to reopen
    sample_asked_again: int = 0  # the revision at which validation tasks were last reopened
    exhausted_at: Moment = 0.0  # when a batch was due but no image was left to query
    waiting_for: str | None = None  # why training cannot start yet
    rescan_asked_at: Moment = 0.0  # when a person last requested a search for new images
    rescanned_at: Moment = 0.0  # when the last complete search for new images began
    listed_revision: int = 0  # the tasks_revision at the beginning of that search
    decoded_at: Moment = 0.0  # when images were last decoded
    pool_images: int = 0  # images that can be queried, as of the last search or decoding
    undecoded_images: int = 0  # images still to be decoded, as of the last search or decoding
    pool_classes: tuple[str, ...] = ()  # classes of the pool's known labels, as of the last search
    failed_at: dict[str, Moment] = {}  # when each step last failed; removed once the step succeeds
    unread_at: Moment = 0.0  # when a training run last failed to read Label Studio
    # Adapting the body to the pool
    adapt_began_at: Moment = 0.0  # when the current or last adaptation began
    adapt_spent_s: float = 0.0  # how long that adaptation has run so far
    adapt_budget_s: float = 0.0  # how long it is expected to run in total
    adapt_kills: int = 0  # how often in a row its process was killed before it saved anything
    adapted_at: Moment = 0.0  # when the last complete adaptation ended
    # How many images the pool had when that adaptation began; 0 if a person requests another one.
    adapted_images: int = 0
    adapted_body: str = ""  # the body that it made
    adapt_failures: int = 0  # how often in a row adapting has failed
    adapt_error: str = ""  # why it failed last, and what to do; "" once it succeeds
    start_changed_at: Moment = 0.0  # when training runs were last given another start
    # Labels by the model
    finish_wanted: float | None = None  # the largest share of errors that a person asked for
    finish_checked: int = 0  # the revision at which the acceptance sample was last judged
    finish_outlook: tuple[FinishOutlook, ...] = ()
    finish_outlook_of: str = ""  # the version that this outlook is about
    finish_outlook_at: Moment = 0.0
    unlabeled_images: int = 0  # pool images that no person has labeled, as of this outlook
    # What the dashboard shows
    open_read_at: Moment = 0.0  # when the open images were last ordered
    # Reviews
    review_project: int | None = None
    reviews_read_at: Moment = 0.0
    # Exports
    emails: dict[int, str] = {}  # of people in Label Studio, as of the last export
    export_asked_at: Moment = 0.0  # when a person last requested a file with the labels
    exported_at: Moment = 0.0  # when the last export of that file began
    # Old versions
    pruning_announced_at: Moment = 0.0  # when the deletion of weights was announced


@dataclass(frozen=True)
class AnnotatorFigures:
    """Statistics of one annotator. Shares are between 0 and 1, or None if unknown."""

    annotator: int = field(metadata={"description": "the person's id in Label Studio"})
    name: str = field(metadata={"description": "the person's name in Label Studio"})
    answers: int = field(metadata={"description": "number of annotations"})
    skipped: int = field(metadata={"description": "number of skipped images"})
    agreement: Probability | None = field(
        metadata={
            "description": "agreement with the consensus, on images that others also annotated"
        }
    )
    quality: Probability | None = field(
        metadata={"description": "probability that an annotation is correct"}
    )
    quality_low: Probability | None = field(
        metadata={"description": "lower bound of the 95 % interval of `quality`"}
    )
    quality_high: Probability | None = field(
        metadata={"description": "upper bound of the same interval"}
    )
    guesses_shown: int = field(
        metadata={"description": "number of annotations made while the model's guess was shown"}
    )
    guesses_taken: Probability | None = field(
        metadata={"description": "share of these guesses that were submitted as shown"}
    )
    guesses_right: Probability | None = field(
        metadata={"description": "share of these guesses that matched the consensus"}
    )
    median_seconds: FiniteFloat | None = field(
        metadata={"description": "median time for one task, in seconds"}
    )


@dataclass(frozen=True)
class KeptError:
    """A recent error of a job."""

    at: str = field(metadata={"description": "when the error occurred"})
    where: str = field(metadata={"description": "the job in which the error occurred"})
    message: str = field(metadata={"description": "what is wrong and what to do"})
    is_over: bool = field(metadata={"description": "whether the job has succeeded since"})


class AskedImage(BaseModel, frozen=True):
    """An image that awaits annotation."""

    image_id: str = Field(description="the id of the image")
    confidence: Probability = Field(
        description="orders the open images: the image with the lowest value comes first"
    )
    guesses: tuple[tuple[str, Probability], ...] = Field(
        description="the three most likely labels, each with its probability; empty if there is "
        "no model, for validation images, or with `BLIND=true`"
    )
    is_again: bool = Field(
        description="whether it is already annotated and awaits another annotator"
    )
    is_validation: bool = Field(
        False,
        description="whether it is a validation image, which annotators label without a guess",
    )
    is_acceptance: bool = Field(
        False,
        description="whether it is in the acceptance sample, which annotators also label without a "
        "guess",
    )


class OpenImage(AskedImage):
    """An image that awaits annotation, with a thumbnail."""

    picture: str = Field(pattern="^data:")
