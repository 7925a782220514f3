"""Settings: the environment and `.env`, read once at a door, checked, and explained when wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from backend.base.errors import SettingsError
from backend.base.strategy_names import StrategyName

TrainName = Literal["both", "full", "head"]
OverlapName = Literal["auto", "1", "2", "3"]
MAX_IMAGE_PIXELS = 50_000_000
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


class Settings(BaseSettings):
    """Every variable of `.env.example`, under the same name in lower case."""

    model_config = SettingsConfigDict(
        # What `make up` made for the stack on this machine wins over .env, in which `make secrets`
        # may have written the secrets of another one; the environment wins over both.
        env_file=(".env", "var/stack.env"),
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
        populate_by_name=True,
    )

    # Label Studio
    label_studio_url: str = "http://127.0.0.1:8080"
    label_studio_api_key: SecretStr = SecretStr("")
    label_studio_host: str = ""
    label_studio_port: int | None = Field(None, ge=1, le=65535)
    project_title: str = Field("Tightloop", min_length=3, max_length=50)
    task_lock_s: int = Field(1800, ge=60, alias="LABEL_STUDIO_TASK_LOCK_TTL")

    # What is labeled, and by which model
    pool: str = "auto"
    weights: str = "auto"
    data_dir: Path = Path("var/data")
    model_dir: Path = Path("var/models")
    image_size: int = Field(64, ge=16, le=512, multiple_of=8)
    # Beyond Pillow's own limit nothing is opened.
    max_image_pixels: int = Field(MAX_IMAGE_PIXELS, ge=1_000_000, le=178_956_970)
    seed_labels: int = Field(500, ge=0)
    seed: int = Field(0, ge=0)
    blind: bool = False
    hints: bool = False

    # The loop
    train: TrainName = "both"
    strategy: StrategyName = "least_confidence"
    overlap: OverlapName = "auto"
    batch_size: int = Field(20, ge=1, le=1000)
    rounds: int = Field(0, ge=0)
    keep_versions: int = Field(20, ge=0)
    retrain_after: int = Field(20, ge=1)
    retrain_wait_s: float = Field(60.0, ge=0, alias="RETRAIN_WAIT")
    reconcile_every_s: float = Field(60.0, gt=0, alias="RECONCILE_EVERY")

    # Where it runs
    device: Literal["auto", "cpu", "cuda"] = "auto"
    log_format: Literal["text", "json"] = "text"

    # Services and doors
    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    backend_host: str = "127.0.0.1"
    backend_port: int = Field(9090, ge=1, le=65535)
    backend_url: str = "http://127.0.0.1:9090"
    backend_user: str = "tightloop"
    backend_password: SecretStr = SecretStr("")
    webhook_secret: SecretStr = SecretStr("")
    dashboard_user: str = "tightloop"
    dashboard_password: SecretStr = SecretStr("")
    dashboard_open: bool = False
    control_secret: SecretStr = SecretStr("")

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
                f"ROUNDS={self.rounds}: with TRAIN=head there is one full training and no further "
                "round: set ROUNDS=0, or TRAIN=both"
            )
        return self

    @property
    def people_url(self) -> str:
        """Label Studio's address in browsers; ours may lead through a network of its own."""
        if self.label_studio_host:
            return self.label_studio_host
        port = self.label_studio_port
        return f"http://localhost:{port}" if port else self.label_studio_url

    @property
    def shows_hints(self) -> bool:
        """Whether the labeling view shows what the model thought when it asked."""
        return self.hints and not self.blind

    @property
    def is_loopback_only(self) -> bool:
        """Whether the backend can be reached from this machine alone."""
        return self.backend_host in LOOPBACK_HOSTS

    def require(self, *names: str) -> None:
        """Raise SettingsError naming every setting of `names` that is empty."""
        empty = [name.upper() for name in names if not _plain(getattr(self, name))]
        if empty:
            raise SettingsError(
                f"{', '.join(empty)} must be set: `make up` makes and keeps it for a local stack; "
                "elsewhere put it into the environment or .env (see .env.example)"
            )


def load_settings(**overrides: Any) -> Settings:
    """Read the environment and `.env`; raise SettingsError naming each bad variable, its value and
    what is allowed.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(dict(e)) for e in error.errors())) from None


def _explain(error: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in error["loc"]).upper()
    field = Settings.model_fields.get(name.lower())
    is_secret = field is not None and field.annotation is SecretStr
    value = "(hidden)" if is_secret else repr(error.get("input"))
    message = error["msg"].removeprefix("Value error, ")
    return f"{name}={value}: {message}" if name else message


def _plain(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value
