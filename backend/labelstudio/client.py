"""Label Studio, the only file that knows its JSON: frozen data in, frozen data out.

The SDK serves what is small. What is bulk goes as plain requests through the SDK's authentication:
reading tasks so takes a third of the time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal, TypeVar
from xml.etree.ElementTree import ParseError
from xml.sax.saxutils import quoteattr

import httpx
from defusedxml.ElementTree import fromstring
from label_studio_sdk import MlBackend, Webhook
from label_studio_sdk.base_client import LabelStudioBase
from label_studio_sdk.core.api_error import ApiError

from backend.base.errors import LabelConfigError, LabelStudioError
from backend.base.labeling import (
    DELETED,
    Annotation,
    LabelConfig,
    NewTask,
    OpenTask,
    Prediction,
    ProjectCounts,
    Task,
    TaskReading,
)
from backend.labelstudio import task_data

T = TypeVar("T")

SECRET_HEADER = "X-Tightloop-Secret"
SAMPLING = "Uncertainty sampling"
OLDEST_FIRST = "Sequential sampling"
BACKEND_TITLE = "Tightloop"
TIMEOUT = httpx.Timeout(120.0, connect=5.0)
# A connection for each request: none to close, none gone stale, none shared with a forked child.
LIMITS = httpx.Limits(max_keepalive_connections=0)
IMPORT_CHUNK = 500
PAGE_SIZE = 500
REASON_LENGTH = 300
HOTKEYS = "1234567890"
ONE_COLUMN = 20  # choices: more of them stand in several columns, or people would have to scroll
TITLE_LENGTH = 50  # of a project, at most
OUR_DESCRIPTION = "Tightloop, round"  # how a project's description begins that people left to us
FIRST_TAB = "Default"  # what Label Studio calls the tab that it makes where there is none
LOOK_TAB = "Least confident first (to look at)"
HINT_COLUMN = "tasks:data.hint"
LOOK_COLUMNS = frozenset(
    {
        "tasks:data.image",
        "tasks:data.asked_by",
        "tasks:data.asked_round",
        HINT_COLUMN,  # not the predictions, of which Label Studio shows all versions' at once
        "tasks:predictions_score",
        "tasks:total_annotations",
        "tasks:annotators",
    }
)
# Columns that Label Studio knows only once a model has asked, to be hidden all the same.
LATER_COLUMNS = frozenset(
    f"tasks:data.asked_{name}" for name in ("probs", "confidence", "margin", "entropy")
)

# The webhooks that we want: the list that holds what changed, or None for a single change.
CHANGED_LISTS: dict[str, str | None] = {
    "ANNOTATION_CREATED": None,
    "ANNOTATION_UPDATED": None,
    "ANNOTATIONS_CREATED": "annotation",
    "ANNOTATIONS_DELETED": "annotations",
    "TASKS_DELETED": "tasks",
}


@dataclass(frozen=True)
class WebhookEvent:
    """What a webhook asks of us; an ignored one has no project (0)."""

    kind: Literal["annotations", "start_training", "ignored"]
    project_id: int
    answered: tuple[str, ...] = ()  # ids of the images that it says were answered


TASK_COLUMNS = "id,data,total_annotations,cancelled_annotations,is_labeled"
OPEN_TASK_COLUMNS = f"{TASK_COLUMNS},predictions_model_versions"
ANSWER_COLUMNS = "annotations,result,completed_by,updated_at,was_cancelled,ground_truth,lead_time"
ANNOTATION_COLUMNS = f"{TASK_COLUMNS},{ANSWER_COLUMNS}"
# Whoever reads what changed since a moment begins this much earlier: clocks differ.
CLOCK_SKEW = timedelta(seconds=10)
IGNORED = WebhookEvent("ignored", 0)
# The parts of a task, and how the answer to an import counts them.
COUNTERS = {
    "data": "task_count",
    "annotations": "annotation_count",
    "predictions": "prediction_count",
}


def read_webhook(payload: object) -> WebhookEvent:
    """What a webhook's JSON says; ValueError where it says nothing that can be understood."""
    if not isinstance(payload, Mapping):
        raise ValueError("a webhook's body must be a JSON object")
    action = payload.get("action")
    if not isinstance(action, str):
        raise ValueError("a webhook must name its action")
    if action == "START_TRAINING":
        return WebhookEvent("start_training", _payload_project(payload))
    if action not in CHANGED_LISTS:
        return IGNORED
    key = CHANGED_LISTS[action]
    if key is not None:
        changed = payload.get(key)
        if not isinstance(changed, list):
            raise ValueError(f"a webhook of {action} must list its {key}")
        if not changed:
            return IGNORED
    return WebhookEvent("annotations", _payload_project(payload), _answered_images(payload))


def project_id_of(project: object) -> int:
    """The id in what /setup and /predict call a project, "25.1795346887"; else ValueError."""
    if not isinstance(project, str) or not re.fullmatch(r"[0-9]{1,18}(\.[0-9]*)?", project):
        raise ValueError('project must look like "25.1795346887"')
    return int(project.partition(".")[0])


def label_config_xml(classes: Sequence[str], *, has_hint: bool = False) -> str:
    """A label config: a crisp 400 px image, and beside it one choice with hotkeys 1..9, 0; with a
    hint, what the task says of the model's guess stands below the image.
    """
    choices = "\n".join(
        f"      <Choice value={quoteattr(name)}"
        + (f' hotkey="{HOTKEYS[i]}"' if i < len(HOTKEYS) else "")
        + "/>"
        for i, name in enumerate(classes)
    )
    hint, style, columns = "", "", ""
    if has_hint:
        hint = (
            '\n    <Header value="$hint" '
            'style="margin: 8px 0; font-size: 14px; line-height: 20px"/>'
        )
    if len(classes) > ONE_COLUMN:
        style = "\n  <Style>.lsf-choice { break-inside: avoid; overflow-wrap: anywhere }</Style>"
        columns = "; columns: 160px; column-fill: auto; max-height: 600px"
    # Without a size a 32 px image is blown up, blurred, until it pushes the choices off the screen.
    return f"""<View style="display: flex; gap: 32px; align-items: flex-start">{style}
  <View style="flex: 0 0 400px">
    <Image name="image" value="$image" smoothing="false" width="400px" maxWidth="400px" \
maxHeight="400px" zoom="false" zoomControl="false" rotateControl="false"/>{hint}
  </View>
  <View style="flex: 1{columns}">
    <Choices name="label" toName="image" choice="single-radio" required="true" showInline="false">
{choices}
    </Choices>
  </View>
</View>
"""


def is_our_label_config(xml: str) -> bool:
    """Whether `label_config_xml` made it, and nobody has changed it since."""
    choices = parse_label_config(xml).choices
    ours = (label_config_xml(choices, has_hint=has_hint) for has_hint in (False, True))
    return xml.strip() in {text.strip() for text in ours}


def parse_label_config(xml: str) -> LabelConfig:
    """Names and choices; LabelConfigError unless it is one Image and one single-choice Choices."""
    try:
        tags = list(fromstring(xml, forbid_dtd=True).iter())
    except (ParseError, ValueError, LookupError) as error:  # a document type, a foreign encoding
        raise LabelConfigError(f"the label config is not XML ({error})") from None
    images = [tag for tag in tags if tag.tag.lower() == "image"]
    controls = [tag for tag in tags if tag.tag.lower() == "choices"]
    if len(images) != 1 or len(controls) != 1:
        raise LabelConfigError(
            f"the label config has {len(images)} Image and {len(controls)} Choices: "
            "it must have exactly one of each"
        )
    image, control = images[0], controls[0]
    if control.get("choice", "single") not in ("single", "single-radio"):
        raise LabelConfigError('the label config\'s Choices must have choice="single-radio"')
    from_name, to_name, value = control.get("name"), image.get("name"), image.get("value", "")
    if not from_name or not to_name or control.get("toName") != to_name:
        raise LabelConfigError("the label config's Choices must name the Image in toName")
    if not re.fullmatch(r"\$.+", value):
        raise LabelConfigError('the label config\'s Image must have value="$image", or another key')
    choices = tuple(
        choice.get("alias") or choice.get("value") or ""  # answers carry the alias if there is one
        for choice in control.iter()
        if choice.tag.lower() == "choice"
    )
    if not all(choices) or len(choices) < 2:
        raise LabelConfigError("the label config's Choices must hold at least two, with values")
    return LabelConfig(from_name, to_name, image_key=value[1:], choices=choices)


def prediction_result(
    config: LabelConfig, label: str, probability: float | None = None
) -> list[dict[str, Any]]:
    """The `result` of an annotation or prediction that says `label`."""
    if label not in config.choices:  # Label Studio would drop it without a word
        raise LabelConfigError(
            f"{label!r} is not among the label config's choices ({', '.join(config.choices)})"
        )
    region: dict[str, Any] = {
        "from_name": config.from_name,
        "to_name": config.to_name,
        "type": "choices",
        "value": {"choices": [label]},
    }
    return [region if probability is None else {**region, "score": probability}]


def find_project(
    url: str, api_key: str, *, titles: Sequence[str], project_id: int | None = None
) -> int | None:
    """The project `project_id` if it is still there, else the oldest with one of these titles."""
    server = _Server(url, api_key)
    fields = {"include": "id,title", "page_size": 1000}
    if project_id is not None:
        found = server.request("GET", "api/projects/", params={**fields, "ids": project_id})
        if found["results"]:
            return project_id
    ids: list[int] = []
    for title in titles:
        found = server.request("GET", "api/projects/", params={**fields, "title": title})
        ids += [p["id"] for p in found["results"] if p["title"] == title]
    return min(ids, default=None)


def create_project(
    url: str, api_key: str, *, title: str, label_config: str, sampling: str = SAMPLING
) -> int:
    """Make a project and return its id."""
    project = _Server(url, api_key).ask(
        lambda sdk: sdk.projects.create(title=title, label_config=label_config, sampling=sampling)
    )
    if project.id is None:
        raise LabelStudioError(f"Label Studio at {url} made a project without an id")
    return project.id


def label_now_url(browser_url: str, project_id: int) -> str:
    """Where people press Label All Tasks.

    No link opens the label stream itself: until a browser has seen that button pressed once,
    `labeling=1` gives the oldest task, and to everybody the same.
    """
    return f"{browser_url}/projects/{project_id}/data"


def authorization(url: str, api_key: str) -> str:
    """The Authorization header for this Label Studio."""
    return _cached_server(url, api_key).authorization()


class LabelStudioProject:
    """One project of one Label Studio. Methods raise LabelStudioError, which says what to do."""

    def __init__(self, url: str, api_key: str, project_id: int) -> None:
        self.project_id = project_id
        self._server = _Server(url, api_key)
        self._label_config: LabelConfig | None = None

    def title(self) -> str:
        """The project's title."""
        return str(self._read()["title"])

    def created_at(self) -> str:
        """When it was made: tells it from a project of the same id in another Label Studio."""
        return str(self._read()["created_at"])

    def label_config(self) -> LabelConfig:
        """Return the project's label config, read once for this object; LabelConfigError if it is
        not for us.
        """
        if self._label_config is None:
            self._label_config = parse_label_config(self.label_config_xml())
        return self._label_config

    def label_config_xml(self) -> str:
        """The project's label config as Label Studio keeps it."""
        return str(self._read()["label_config"])

    def counts(self) -> ProjectCounts:
        """How far the project is, in three cheap requests."""
        found = self._server.request("GET", "api/projects/counts/", params={"ids": self.project_id})
        if not found["results"]:
            raise LabelStudioError(
                f"Label Studio at {self._server.url} has no project {self.project_id}: "
                "run `python -m scripts.setup_project`"
            )
        counts = found["results"][0]
        return ProjectCounts(
            tasks=counts["task_number"],
            annotations=counts["total_annotations_number"],
            skipped=counts["skipped_annotations_number"],
            open=self._count(UNANSWERED),
            awaiting_second_opinion=self._count([UNFINISHED, ANSWERED]),
        )

    def n_tasks(self) -> int:
        """Count the project's tasks, in one cheap request."""
        return self._count([])

    def tasks(self) -> list[Task]:
        """Return every task, oldest first."""
        return [_task(task) for task in self._pages(TASK_COLUMNS)]

    def read_tasks(self, changed_after: datetime | None = None) -> Iterator[TaskReading]:
        """Yield all tasks with their annotations, or those that changed after a moment.

        A new task has changed, and so has one that lost an annotation; a deleted one just vanishes.
        Begin at CLOCK_SKEW before the last reading: moments are told by Label Studio's clock.
        """
        filters = []
        if changed_after is not None:
            moment = changed_after.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            filters = [_filter("updated_at", "greater", "Datetime", moment)]
        for task in self._pages(ANNOTATION_COLUMNS, filters):
            yield TaskReading(
                task=_task(task),
                updated_at=task["updated_at"],
                annotations=tuple(_annotations(task)),
                asked=task_data.read_asked(task["data"]),
            )

    def open_tasks(self) -> list[OpenTask]:
        """Return the tasks that wait for an answer, or for another person's; oldest first."""
        found = [
            OpenTask(**vars(_task(task)), versions=_versions(task))
            for task in self._pages(OPEN_TASK_COLUMNS, [UNFINISHED])
        ]
        return [task for task in found if task.is_open or task.awaits_second_opinion]

    def reopen(self, task_id: int, n_annotators: int) -> None:
        """Open a finished task to those who have not answered it, until so many people have; fine
        where it is gone.
        """
        changes = {"overlap": n_annotators, "is_labeled": False}
        self._server.request("PATCH", f"api/tasks/{task_id}/", json=changes, may_be_gone=True)

    def annotator_names(self) -> dict[int, str]:
        """The names of all who have an account, by id."""
        return {
            user["id"]: f"{user['first_name']} {user['last_name']}".strip() or user["email"]
            for user in self._server.request("GET", "api/users/")
        }

    def image_ids(self) -> set[str]:
        """The images that are in a task, open or not."""
        return {task.image_id for task in self.tasks()} - {""}

    def annotations(self) -> dict[int, list[Annotation]]:
        """Return all annotations by task."""
        return {task.task.task_id: list(task.annotations) for task in self.read_tasks()}

    def annotations_of(self, image_id: str) -> dict[int, list[Annotation]]:
        """The annotations of one image, by the tasks that ask it."""
        filters = [_filter("data.image_id", "equal", "String", image_id)]
        return {task["id"]: _annotations(task) for task in self._pages(ANNOTATION_COLUMNS, filters)}

    def add_ground_truth(self, task_id: int, label: str, annotator: int | None) -> None:
        """Settle a task in somebody's name, ours where that person was deleted; its other
        annotations are ground truth no more.
        """
        body: dict[str, Any] = {
            "result": prediction_result(self.label_config(), label),
            "ground_truth": True,
        }
        if annotator not in (None, DELETED):
            body["completed_by"] = annotator
        self._server.request("POST", f"api/tasks/{task_id}/annotations/", json=body)

    def import_tasks(self, new_tasks: Sequence[NewTask]) -> int:
        """Make tasks, each with its prediction or label at once; their number comes back."""
        if not new_tasks:
            return 0
        config = self.label_config()
        for chunk in _chunks([_new_task(config, task) for task in new_tasks]):
            made = self._server.request(
                "POST", f"api/projects/{self.project_id}/import", json=chunk
            )
            for part, counter in COUNTERS.items():
                self._check_count(part, sum(part in task for task in chunk), made.get(counter))
        return len(new_tasks)

    def import_predictions(self, by_task_id: Mapping[int, Prediction]) -> int:
        """Add a prediction to each of these tasks; their number comes back.

        Not idempotent: leave out tasks whose `versions` name the version already. One task that is
        gone refuses its whole chunk: read the tasks again and repeat.
        """
        if not by_task_id:
            return 0
        config = self.label_config()
        rows = [{"task": task_id, **_prediction(config, p)} for task_id, p in by_task_id.items()]
        for chunk in _chunks(rows):
            made = self._server.request(
                "POST", f"api/projects/{self.project_id}/import/predictions", json=chunk
            )
            self._check_count("predictions", len(chunk), made.get("created"))
        return len(rows)

    def model_version(self) -> str:
        """The model version whose predictions order the tasks, or ""."""
        return str(self._read()["model_version"] or "")

    def switch_model_version(self, version: str) -> None:
        """Order the tasks by this version's predictions, of which there must be some."""
        self._change(model_version=version)

    def model_versions(self) -> list[str]:
        """The model versions of all predictions."""
        found = self._server.request("GET", self._versions_path)
        # Label Studio adds the current version, with a count of 0 where it has no prediction.
        return [version for version, count in found.items() if count]

    def delete_predictions(self, version: str) -> None:
        """Delete all predictions of a version; fine where there are none."""
        self._server.request("DELETE", self._versions_path, json={"model_version": version})

    def delete_tasks(self, task_ids: Sequence[int]) -> None:
        """Delete tasks with all that is in them; fine where they are gone already."""
        if not task_ids:  # Label Studio would take an empty list for all tasks
            return
        self._server.request(
            "POST",
            "api/dm/actions/",
            params={"id": "delete_tasks", "project": self.project_id},
            json={"selectedItems": {"all": False, "included": list(task_ids)}},
        )

    # Set-up: each is idempotent and says whether it changed anything

    def configure(self, *, is_blind: bool) -> bool:
        """Ask the least confident first; show people the model's guess, unless they label blind."""
        now = self._read()
        wanted = {"sampling": SAMPLING, "show_collab_predictions": not is_blind}
        changes = {key: value for key, value in wanted.items() if now[key] != value}
        if not changes:
            return False
        self._change(**changes)
        if self.model_version() != (now["model_version"] or ""):
            # Hiding predictions also emptied the version, and with it the order: set it back.
            self._change(model_version=now["model_version"])
        return True

    def change_label_config(self, xml: str) -> bool:
        """Label with this label config; LabelStudioError where it does not fit what was labeled."""
        if self.label_config_xml().strip() == xml.strip():
            return False
        self._change(label_config=xml)
        self._label_config = None
        return True

    def set_description(self, text: str) -> bool:
        """Say in the project's description how it stands, unless somebody wrote another one."""
        now = str(self._read()["description"] or "")
        if now == text or (now and not now.startswith(OUR_DESCRIPTION)):
            return False
        self._change(description=text)
        return True

    def instruct(self, html: str, earlier: Collection[str]) -> bool:
        """Give annotators these instructions, unless there are others than the `earlier` ones."""
        now = str(self._read()["expert_instruction"] or "")
        if now == html or (now and now not in earlier):
            return False
        self._change(expert_instruction=html)
        return True

    def add_look_tab(self) -> bool:
        """Add a tab that shows what is asked next, in that order, to the Data Manager; one of its
        title is left as people have made it.
        """
        path, params = "api/dm/views/", {"project": self.project_id}
        tabs = self._server.request("GET", path, params=params)
        if any((tab["data"] or {}).get("title") == LOOK_TAB for tab in tabs):
            return False
        found = self._server.request("GET", "api/dm/columns/", params=params)["columns"]
        columns = {_column_id(c): c["visibility_defaults"] for c in found if not c.get("children")}
        hidden = {
            place: [column for column, is_shown in columns.items() if not is_shown[place]]
            for place in ("explore", "labeling")
        }
        if not tabs:  # people land in the first tab, which shall stay Label Studio's own
            self._add_tab(FIRST_TAB, hiddenColumns=hidden)
        unused = sorted((LATER_COLUMNS | {*columns}) - LOOK_COLUMNS)
        self._add_tab(
            LOOK_TAB,
            ordering=["tasks:predictions_score"],
            filters={"conjunction": "and", "items": [UNFINISHED]},
            hiddenColumns={**hidden, "explore": unused},
            columnsWidth={HINT_COLUMN: 320},
        )
        return True

    def _add_tab(self, title: str, **data: Any) -> None:
        tab = {"project": self.project_id, "data": {"title": title, **data}}
        self._server.request("POST", "api/dm/views/", json=tab)

    def connect_webhook(self, url: str, secret: str) -> bool:
        """Have changes sent to `url` with our secret, once; other webhooks of ours are removed.

        To be called before `connect_backend`: Label Studio then adds no webhook of its own.
        """
        hooks = [h for h in self._webhooks() if h.url == url or SECRET_HEADER in (h.headers or {})]
        sound = [h for h in hooks if _is_sound(h, url, secret)]
        if len(hooks) == len(sound) == 1:
            return False
        if not sound:
            self._server.ask(
                lambda sdk: sdk.webhooks.create(
                    project=self.project_id,
                    url=url,
                    headers={SECRET_HEADER: secret},
                    actions=list(CHANGED_LISTS),
                    send_for_all_actions=False,
                    send_payload=True,
                    is_active=True,
                )
            )
        for hook in hooks:
            if hook not in sound[:1]:
                self._server.request("DELETE", f"api/webhooks/{hook.id}/")
        return True

    def connect_backend(self, url: str, user: str, password: str) -> bool:
        """Connect the ML backend at `url` (it must be up) once; other rows of ours are removed."""
        rows = [b for b in self._backends() if b.url == url or b.title == BACKEND_TITLE]
        # Listing makes Label Studio call /setup: what is connected has the right password.
        sound = [b for b in rows if (b.url, b.basic_auth_user, b.state) == (url, user, "CO")]
        if len(rows) == len(sound) == 1:
            return False
        if not sound:
            self._create_backend(url, user, password)
        for row in rows:
            if row not in sound[:1]:
                self._server.request("DELETE", f"api/ml/{row.id}")
        if self.model_version() == BACKEND_TITLE:
            # Label Studio set this itself; it would make every opened task wait for /predict.
            self._change(model_version="")
        return True

    def _create_backend(self, url: str, user: str, password: str) -> None:
        before = {b.id for b in self._backends()}
        try:
            self._server.ask(
                lambda sdk: sdk.ml.create(
                    project=self.project_id,
                    url=url,
                    title=BACKEND_TITLE,
                    auth_method="BASIC_AUTH",
                    basic_auth_user=user,
                    basic_auth_pass=password,
                )
            )
        except LabelStudioError as error:
            for row in self._backends():  # a refused one may have been kept all the same
                if row.id not in before:
                    self._server.request("DELETE", f"api/ml/{row.id}")
            raise LabelStudioError(
                f"the ML backend at {url} could not be connected: check that it runs, and that "
                f"BACKEND_URL is its address as Label Studio sees it. {error}"
            ) from None

    def _webhooks(self) -> list[Webhook]:
        return self._server.ask(lambda sdk: sdk.webhooks.list(project=str(self.project_id)))

    def _backends(self) -> list[MlBackend]:
        return self._server.ask(lambda sdk: sdk.ml.list(project=self.project_id))

    @property
    def _versions_path(self) -> str:
        return f"api/projects/{self.project_id}/model-versions/"

    def _read(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._server.request("GET", f"api/projects/{self.project_id}/")
        return found

    def _change(self, **fields: Any) -> None:
        self._server.request("PATCH", f"api/projects/{self.project_id}/", json=fields)

    def _pages(
        self, include: str, filters: Sequence[Mapping[str, Any]] = ()
    ) -> Iterator[Mapping[str, Any]]:
        """Tasks by ascending id; a page begins after the last id, so that deletions shift none."""
        last_id = 0
        while True:
            later = _filter("id", "greater", "Number", last_id)
            body = self._page([later, *filters], include=include, fields="all", page_size=PAGE_SIZE)
            page = body["tasks"]
            yield from page
            if len(page) >= body["total"] or not page:
                return
            last_id = page[-1]["id"]

    def _page(self, filters: Sequence[Mapping[str, Any]], **params: Any) -> Mapping[str, Any]:
        query = {"filters": {"conjunction": "and", "items": filters}, "ordering": ["tasks:id"]}
        body: Mapping[str, Any] = self._server.request(
            "GET",
            "api/tasks/",
            params={"project": self.project_id, "query": json.dumps(query), **params},
        )
        return body

    def _count(self, filters: Sequence[Mapping[str, Any]]) -> int:
        return int(self._page(filters, include="id", page_size=1)["total"])

    def _check_count(self, what: str, sent: int, kept: int | None) -> None:
        if kept != sent:
            raise LabelStudioError(
                f"Label Studio at {self._server.url} kept {kept} of {sent} {what}: "
                "check that the label config has not changed, and try again"
            )


class _Server:
    """One Label Studio: the SDK, and bulk requests with the SDK's authentication."""

    def __init__(self, url: str, api_key: str) -> None:
        if not re.fullmatch(r"[!-~]+", api_key):
            raise LabelStudioError(
                "LABEL_STUDIO_API_KEY is empty, or holds blanks or characters that no token has: "
                "copy the access token from Label Studio's Account & Settings"
            )
        self.url = url
        with _explaining(url):  # an expired token is found out here
            # Not its LabelStudio, which loads pandas: 95 MB and seconds, in every process of ours.
            self._sdk = LabelStudioBase(
                base_url=f"{url}/",
                api_key=api_key,
                httpx_client=httpx.Client(timeout=TIMEOUT, limits=LIMITS),
                max_retries=0,
            )

    def ask(self, request: Callable[[LabelStudioBase], T]) -> T:
        """Ask through the SDK."""
        with _explaining(self.url):
            return request(self._sdk)

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any | None = None,
        may_be_gone: bool = False,
    ) -> Any:
        """Ask without the SDK's models; the answer's JSON comes back, or None for what is gone."""
        with _explaining(self.url):
            # Not public, but what all of the SDK's methods use: it knows both kinds of tokens.
            response = self._sdk._client_wrapper.httpx_client.request(
                path, method=method, params=dict(params or {}), json=json
            )
            if response.status_code == 404 and may_be_gone:
                return None
            body = response.json() if response.content else None
            if not response.is_success:
                raise ApiError(status_code=response.status_code, body=body)
            return body

    def authorization(self) -> str:
        """The Authorization header; a personal access token is exchanged when it is due."""
        with _explaining(self.url):
            return self._sdk._client_wrapper.get_headers()["Authorization"]


@lru_cache(maxsize=1)
def _cached_server(url: str, api_key: str) -> _Server:
    return _Server(url, api_key)


@contextmanager
def _explaining(url: str) -> Iterator[None]:
    """Raise LabelStudioError for what the SDK and httpx raise, whose text holds tokens, cookies."""
    try:
        yield
    except ApiError as error:
        raise LabelStudioError(_explain(url, error.status_code, error.body)) from None
    except httpx.ReadTimeout:
        raise LabelStudioError(
            f"Label Studio at {url} did not answer within {TIMEOUT.read:.0f} s: look at its log"
        ) from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise LabelStudioError(
            f"Label Studio at {url} cannot be reached ({type(error).__name__}): "
            "check that it runs, and LABEL_STUDIO_URL"
        ) from None
    except ValueError:  # not JSON
        raise LabelStudioError(
            f"{url} does not answer like Label Studio: check LABEL_STUDIO_URL"
        ) from None


def _explain(url: str, status: int | None, body: Any) -> str:
    reason = ""
    if isinstance(body, Mapping):
        reason = str(body.get("validation_errors") or body.get("detail") or "")[:REASON_LENGTH]
    if status == 401:
        return (
            f"Label Studio at {url} refused the token (401 {reason}): set LABEL_STUDIO_API_KEY "
            "to a valid access token of one of its users"
        )
    if status == 403 and "address" in reason:
        return (
            f"Label Studio at {url} refuses private addresses ({reason}): start it with "
            "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS=false"
        )
    return f"Label Studio at {url} answered {status}: {reason or 'no reason given'}"


def _payload_project(payload: Mapping[Any, Any]) -> int:
    project = payload.get("project")
    project_id = project.get("id") if isinstance(project, Mapping) else None
    if type(project_id) is not int or not 0 < project_id < 2**63:  # True is an int, too
        raise ValueError("a webhook must carry its project's id: create it with send_payload")
    return project_id


def _answered_images(payload: Mapping[Any, Any]) -> tuple[str, ...]:
    """Images of the tasks that a webhook carries: one, several, or none where some were deleted."""
    tasks = payload.get("task")
    of_tasks = tasks if isinstance(tasks, list) else [tasks]
    found = [task_data.read_image_id(t.get("data")) for t in of_tasks if isinstance(t, Mapping)]
    return tuple(filter(None, found))


def _filter(column: str, operator: str, kind: str, value: Any) -> dict[str, Any]:
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}


def _column_id(column: Mapping[str, Any]) -> str:
    parent = f"{column['parent']}." if column.get("parent") else ""
    return f"{column['target']}:{parent}{column['id']}"


UNANSWERED = [
    _filter(column, "equal", "Number", 0)
    for column in ("total_annotations", "cancelled_annotations")
]
ANSWERED = _filter("total_annotations", "greater", "Number", 0)
UNFINISHED = _filter("completed_at", "empty", "Datetime", True)


def _chunks(rows: Sequence[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    return (rows[i : i + IMPORT_CHUNK] for i in range(0, len(rows), IMPORT_CHUNK))


def _new_task(config: LabelConfig, task: NewTask) -> dict[str, Any]:
    row: dict[str, Any] = {"data": dict(task.data)}
    if task.prediction is not None:
        row["predictions"] = [_prediction(config, task.prediction)]
    if task.label is not None:
        # Else imported answers are "ground truth", which Label Studio leaves out of its counts.
        result = prediction_result(config, task.label)
        row["annotations"] = [{"result": result, "ground_truth": False}]
    return row


def _prediction(config: LabelConfig, prediction: Prediction) -> dict[str, Any]:
    return {
        "result": prediction_result(config, prediction.label, prediction.probability),
        "score": prediction.score,
        "model_version": prediction.model_version,
    }


def _task(task: Mapping[str, Any]) -> Task:
    return Task(
        task_id=task["id"],
        image_id=task_data.read_image_id(task["data"]),
        is_open=not (task["total_annotations"] or task["cancelled_annotations"]),
        awaits_second_opinion=bool(task["total_annotations"]) and not task["is_labeled"],
    )


def _versions(task: Mapping[str, Any]) -> frozenset[str]:
    """The model versions of a task's predictions."""
    versions = task["predictions_model_versions"] or ""
    return frozenset(name for part in versions.split(",") if (name := part.strip()))


def _annotations(task: Mapping[str, Any]) -> list[Annotation]:
    is_seed = task_data.is_seed(task["data"])
    image_id = task_data.read_image_id(task["data"])
    by_age = sorted(task["annotations"], key=lambda annotation: annotation["id"])
    return [
        Annotation(
            annotation_id=annotation["id"],
            task_id=task["id"],
            image_id=image_id,
            # A seed's first annotation came with the task; more of them are people's.
            annotator=None if is_seed and annotation is by_age[0] else _annotator(annotation),
            label=None if annotation["was_cancelled"] else _label(annotation["result"]),
            was_skipped=bool(annotation["was_cancelled"]),
            updated_at=annotation["updated_at"],
            is_ground_truth=bool(annotation["ground_truth"]),
            accepted_guess=_took_guess(annotation["result"]),
            seconds=annotation["lead_time"],
        )
        for annotation in task["annotations"]
    ]


def _annotator(annotation: Mapping[str, Any]) -> int:
    return annotation["completed_by"] or DELETED


def _took_guess(result: Any) -> bool:
    """Whether an annotation is a prediction as it was shown."""
    regions = [r for r in result if isinstance(r, Mapping)] if isinstance(result, list) else []
    return bool(regions) and all(region.get("origin") == "prediction" for region in regions)


def _label(result: Any) -> str | None:
    """The one choice of an annotation's result, or None: the API lets anything be written there."""
    for region in result if isinstance(result, list) else ():
        if isinstance(region, Mapping) and region.get("type") == "choices":
            value = region.get("value")
            choices = value.get("choices") if isinstance(value, Mapping) else None
            if isinstance(choices, list) and len(choices) == 1:
                return str(choices[0])
    return None


def _is_sound(hook: Webhook, url: str, secret: str) -> bool:
    return (
        hook.url == url
        and hook.headers == {SECRET_HEADER: secret}
        and set(hook.actions or ()) == set(CHANGED_LISTS)
        and hook.is_active is True
        and hook.send_payload is True
        and hook.send_for_all_actions is False
    )
