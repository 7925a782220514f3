"""Read the settings from the environment and `.env`, and explain every bad value."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    Field,
    PlainValidator,
    SecretStr,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_settings import SettingsConfigDict

from backend.base.errors import SettingsError
from backend.base.project_settings import ProjectSettings
from backend.base.scale_settings import ScaleSettings
from backend.base.strategy_names import StrategyName

TrainName = Literal["both", "full", "head"]
OverlapName = Literal["auto", "1", "2", "3"]
GoalName = Literal["learn", "finish"]
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
MAX_ADAPT_MINUTES = 1440


def _read_adapt(value: object) -> object:
    text = str(value).strip()
    if text in ("auto", "off"):
        return text
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if 0 < minutes <= MAX_ADAPT_MINUTES:
        return minutes
    raise ValueError(
        f"must be auto, off, or a number of minutes above 0, up to {MAX_ADAPT_MINUTES}"
    )


AdaptSetting = Annotated[
    float | Literal["auto", "off"],
    PlainValidator(_read_adapt),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": MAX_ADAPT_MINUTES}),
]


class Settings(ProjectSettings, ScaleSettings):
    """All variables in `.env.example`, with their names in lower case."""

    model_config = SettingsConfigDict(
        # Later files win. `make up` writes var/stack.env for the stack on this machine; .env may
        # contain secrets that `make secrets` wrote for docker compose. The environment wins over
        # both files.
        env_file=(".env", "var/stack.env"),
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
        populate_by_name=True,
    )

    # The loop
    train: TrainName = Field(
        "both",
        description="Which part of the model learns from new annotations: `full` trains the whole "
        "network (minutes on a CPU), `head` fits only the last layer (about a second), and `both` "
        "fits heads between full training runs.",
    )
    adapt: AdaptSetting = Field(
        "auto",
        description="Whether, and for how many minutes, to adapt the body of the model to the "
        "images in the pool, without labels, after the first version is trained. `auto` does so if "
        "the pool has at least 5,000 images, for 30 minutes or 100 passes over the pool, whichever "
        "ends first. A number is the minutes to spend on a pool of any size. `off` adapts nothing.",
    )
    strategy: StrategyName = Field(
        "auto",
        description="The strategy that chooses the images to query next. Unless you set it, a "
        "project keeps the strategy with which it was set up. Projects from earlier releases keep "
        "`least_confidence`.",
    )
    goal: GoalName = Field(
        "learn",
        description="What to query once the model may label the rest of the images: `learn` "
        "queries the images that `STRATEGY` chooses, and `finish` queries the images left for "
        "people, least confident first.",
    )
    overlap: OverlapName = Field(
        "auto",
        description="How many annotators label each image: `1`, `2` or `3`. `auto` asks for a "
        "second opinion if it helps the model more than a new image does. In an attached "
        "project, `OVERLAP` is `1` unless you set it.",
    )
    batch_size: int = Field(
        20,
        ge=1,
        le=1000,
        description="How many images to query at a time. A new batch is queried as soon as fewer "
        "images than this are open. If several people annotate at once, a batch contains at "
        "least five images for each of them.",
    )
    rounds: int = Field(
        0, ge=0, description="The number of rounds after which to stop querying. `0` never stops."
    )
    keep_versions: int = Field(
        20,
        ge=0,
        description="How many full model versions keep their weights (45 MB each). Older "
        "versions keep their figures but cannot be promoted again. `0` keeps all.",
    )
    retrain_after: int = Field(20, ge=1, description="Retrain after this many new annotations.")
    retrain_wait_s: float = Field(
        60.0,
        ge=0,
        alias="RETRAIN_WAIT",
        description="Retrain this many seconds after the first new annotation, even if there are "
        "fewer than `RETRAIN_AFTER` new annotations.",
    )
    reconcile_every_s: float = Field(
        60.0,
        gt=0,
        alias="RECONCILE_EVERY",
        description="Seconds between two checks for annotations whose webhook was lost.",
    )
    rescan_every_s: float = Field(
        600.0,
        gt=0,
        alias="RESCAN_EVERY",
        description="Seconds between two searches for images that were added to the pool or "
        "removed from it. CIFAR-10 and the digits never change.",
    )

    # Where it runs
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="Where to train: `cpu`, or `cuda` (refuses to start without a GPU). `auto` "
        "uses a GPU if one is available.",
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="The format of log lines. `json` writes one object per line."
    )
    data_dir: Path = Field(
        Path("var/data"), description="The folder that caches images and pre-trained weights."
    )
    model_dir: Path = Field(
        Path("var/models"), description="The folder for model versions and project databases."
    )

    # Label Studio
    label_studio_url: str = Field(
        "http://127.0.0.1:8080",
        description="The address at which Tightloop reaches Label Studio. `make up` sets it.",
    )
    label_studio_api_key: SecretStr = Field(
        SecretStr(""),
        description="The access token of a Label Studio user (Account & Settings, Access Token). "
        "`make up` and `make secrets` create it.",
    )
    label_studio_host: str = Field(
        "",
        description="Label Studio's address in annotators' browsers if it differs from "
        "`LABEL_STUDIO_URL`, for example `https://label.example.org` behind a proxy.",
    )
    label_studio_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="The port on this machine at which users reach Label Studio (8080 unless set).",
    )
    task_lock_s: int = Field(
        1800,
        ge=60,
        alias="LABEL_STUDIO_TASK_LOCK_TTL",
        description="How many seconds Label Studio reserves a task for the annotator who "
        "opened it.",
    )

    # Services and access
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="The address of Redis, which stores jobs and counters: "
        "`redis://:password@host:port/db`, `rediss://` or `unix://path`. `make up` sets it.",
    )
    backend_host: str = Field("127.0.0.1", description="The address that the backend listens on.")
    backend_port: int = Field(
        9090, ge=1, le=65535, description="The port that the backend listens on."
    )
    backend_url: str = Field(
        "http://127.0.0.1:9090",
        description="The address at which Label Studio reaches the backend.",
    )
    backend_user: str = Field(
        "tightloop",
        description="The user name that Label Studio sends to the ML backend (basic auth).",
    )
    backend_password: SecretStr = Field(
        SecretStr(""),
        description="The password that Label Studio sends to the ML backend. `make up` and "
        "`make secrets` create it.",
    )
    webhook_secret: SecretStr = Field(
        SecretStr(""),
        description="The secret header that proves that a webhook comes from this Label Studio. "
        "`make up` and `make secrets` create it.",
    )
    dashboard_user: str = Field(
        "tightloop",
        description="The user name for the dashboard, `/status` and `/metrics` (basic auth).",
    )
    dashboard_password: SecretStr = Field(
        SecretStr(""),
        description="The password for the dashboard, `/status` and `/metrics`. Unless you set one, "
        "anyone on this machine may read them, and `make up` creates a password for changes.",
    )
    dashboard_open: bool = Field(
        False,
        description="`true` lets anyone on this machine read the dashboard even if "
        "`DASHBOARD_PASSWORD` is set.",
    )
    control_secret: SecretStr = Field(
        SecretStr(""),
        description="The secret that a dashboard in a separate process sends to the backend when "
        "someone presses a button. If the secret is empty, the backend refuses these requests. "
        "`make secrets` creates the secret; `make up` does not need it.",
    )

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the environment and `.env`.

        If any value is bad, raises a SettingsError that lists each bad variable, its value and the
        allowed values.
        """
        try:
            return cls(**overrides)
        except ValidationError as error:
            raise SettingsError("\n".join(_explain(dict(e)) for e in error.errors())) from None

    @field_validator("label_studio_url", "label_studio_host", "backend_url")
    @classmethod
    def _is_an_origin(cls, url: str) -> str:
        if url and not url.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        if url and not urlsplit(url).hostname:
            raise ValueError("must name a host")
        return url.rstrip("/")

    @field_validator("redis_url")
    @classmethod
    def _is_a_redis_url(cls, url: SecretStr) -> SecretStr:
        if not url.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must begin with redis://, rediss:// or unix://")
        return url

    @model_validator(mode="after")
    def _rounds_can_end(self) -> Self:
        if self.train == "head" and self.rounds:
            raise ValueError(
                f"ROUNDS={self.rounds}: TRAIN=head fits heads, which do not count as rounds, so "
                "the rounds never end: set ROUNDS=0, or TRAIN=both"
            )
        return self

    @property
    def browser_url(self) -> str:
        """Return Label Studio's address for browsers; `label_studio_url` may be internal."""
        if self.label_studio_host:
            return self.label_studio_host
        port = self.label_studio_port
        return f"http://localhost:{port}" if port else self.label_studio_url

    @property
    def shows_hints(self) -> bool:
        """Return whether the labeling view shows the guesses made when the image was chosen."""
        return self.hints and not self.blind

    def strategy_in(self, recorded: StrategyName | None, *, is_finishing: bool) -> StrategyName:
        """Return the query strategy of a project.

        `recorded` is the strategy with which the project was set up, or None if an earlier release
        did not record it. `is_finishing` states whether a try to have the model label the rest is
        asking or has passed. With GOAL=finish, the images that are left for people are then queried
        least confident first.
        """
        if is_finishing and self.goal == "finish":
            return "least_confidence"
        if "strategy" in self.model_fields_set:
            return self.strategy
        return recorded or "least_confidence"

    def overlap_in(self, *, is_attached: bool) -> OverlapName:
        """Return how many annotators label each image of a project.

        A second opinion changes the task. In an attached project, the task belongs to the team, so
        no second opinions are requested unless OVERLAP is set.
        """
        return "1" if is_attached and "overlap" not in self.model_fields_set else self.overlap

    def may_reopen(self, *, is_attached: bool) -> bool:
        """Return whether a project's tasks may be reopened for other annotators."""
        return not is_attached or self.overlap_in(is_attached=True) != "1"

    @property
    def is_loopback_only(self) -> bool:
        """Return whether only this machine can reach the backend."""
        return self.backend_host in LOOPBACK_HOSTS

    def require(self, *names: str) -> None:
        """Raise SettingsError if any setting in `names` is empty; the message lists them."""
        empty = [name.upper() for name in names if not getattr(self, name)]
        if empty:
            raise SettingsError(
                f"{', '.join(empty)} must be set: `make up` does this for a local stack; otherwise "
                "use the environment or .env (see .env.example)"
            )


def load_settings(**overrides: Any) -> Settings:
    """Return the settings of this process; see `Settings.load`."""
    return Settings.load(**overrides)


def _explain(error: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in error["loc"]).upper()
    field = Settings.model_fields.get(name.lower())
    is_secret = field is not None and field.annotation is SecretStr
    value = "(hidden)" if is_secret else repr(error.get("input"))
    message = error["msg"].removeprefix("Value error, ")
    return f"{name}={value}: {message}" if name else message
