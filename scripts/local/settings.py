"""Read the settings of a local stack, and build the environment of its processes."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Self

from dotenv import dotenv_values
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from backend.base.settings import Settings
from scripts.local.folder import StackFolder

LOOPBACK = "127.0.0.1"
USERNAME = "admin@tightloop.local"
MARK = "TIGHTLOOP_STACK"  # a variable of every process of a stack; its value is the stack's folder
# Label Studio's name for one of its feature flags.
MEMORY_EFFICIENT_PREDICTIONS = (
    "fflag_fix_back_4620_memory_efficient_predictions_import_08012025_short"
)


class StackSettings(Settings):
    """The settings that all commands share, plus the settings of a local stack."""

    model_config = SettingsConfigDict(env_file=".env")  # ignores another stack's stack.env

    var_dir: Path = Field(Path("var"), description="The folder of the stack.")
    detach: bool = Field(False, description="`true` returns as soon as everything is ready.")
    label_studio_port: int = Field(8080, ge=1, le=65535, description="The port of Label Studio.")
    redis_port: int = Field(6379, ge=1, le=65535, description="The port of Redis.")

    def within(self, folder: StackFolder) -> Self:
        """Return these settings, with DATA_DIR and MODEL_DIR in the stack's folder unless set."""
        given = self.model_fields_set
        data = self.data_dir.resolve() if "data_dir" in given else folder.path / "data"
        models = self.model_dir.resolve() if "model_dir" in given else folder.path / "models"
        return self.model_copy(update={"data_dir": data, "model_dir": models})


def make_environment(settings: StackSettings, folder: StackFolder) -> dict[str, str]:
    """Return the environment for all processes, and write stack.env for our own commands."""
    own = _own_settings(settings, folder)
    folder.write("stack.env", "".join(f"{name}='{value}'\n" for name, value in own.items()))
    proxied = [os.environ.get(name, "") for name in ("NO_PROXY", "no_proxy")]
    no_proxy = ",".join(filter(None, [*proxied, LOOPBACK, "localhost"]))
    return {
        **os.environ,
        **own,
        MARK: str(folder.path),
        "VAR_DIR": str(folder.path),
        "BACKEND_PORT": str(settings.backend_port),
        "PYTHONUNBUFFERED": "1",
        # Idle threads sleep instead of spinning, because training, scoring and the annotators'
        # requests share the cores.
        "OMP_WAIT_POLICY": "passive",
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
        **_label_studio_settings(settings, folder, own),
    }


def _own_settings(settings: StackSettings, folder: StackFolder) -> dict[str, str]:
    """Return the settings for our commands. Secrets are created once and kept in stack.env."""
    kept = dotenv_values(folder.path / "stack.env", interpolate=False)

    def secret(name: str, n_bytes: int = 20) -> str:
        return kept.get(name) or secrets.token_hex(n_bytes)

    redis_password = secret("REDIS_PASSWORD")
    # A password that the user set also protects reading; a generated one only protects changes.
    dashboard_password = settings.dashboard_password.get_secret_value()
    is_open = settings.dashboard_open or not dashboard_password
    return {
        "LABEL_STUDIO_URL": f"http://{LOOPBACK}:{settings.label_studio_port}",
        "LABEL_STUDIO_API_KEY": secret("LABEL_STUDIO_API_KEY"),  # at most 40 characters
        "LABEL_STUDIO_PASSWORD": secret("LABEL_STUDIO_PASSWORD", 8),
        "BACKEND_URL": f"http://{LOOPBACK}:{settings.backend_port}",
        "BACKEND_PASSWORD": secret("BACKEND_PASSWORD"),
        "WEBHOOK_SECRET": secret("WEBHOOK_SECRET"),
        "DASHBOARD_USER": settings.dashboard_user,
        "DASHBOARD_PASSWORD": dashboard_password or secret("DASHBOARD_PASSWORD", 8),
        "DASHBOARD_OPEN": str(is_open).lower(),
        "REDIS_PASSWORD": redis_password,
        "REDIS_URL": f"redis://:{redis_password}@{LOOPBACK}:{settings.redis_port}/0",
        "DATA_DIR": str(settings.data_dir),
        "MODEL_DIR": str(settings.model_dir),
    }


def _label_studio_settings(
    settings: StackSettings, folder: StackFolder, own: dict[str, str]
) -> dict[str, str]:
    """Return Label Studio's environment variables.

    They turn off the sign-up page and telemetry, and select PostgreSQL over a socket.
    """
    return {
        "LABEL_STUDIO_USERNAME": USERNAME,
        "LABEL_STUDIO_USER_TOKEN": own["LABEL_STUDIO_API_KEY"],
        "LABEL_STUDIO_HOST": own["LABEL_STUDIO_URL"],
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder.path / "label-studio"),
        "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
        "LABEL_STUDIO_TASK_LOCK_TTL": str(settings.task_lock_s),
        "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS": "false",  # our backend is on loopback
        # Without this flag, importing 20 predictions recounts every task in the project.
        MEMORY_EFFICIENT_PREDICTIONS: "true",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "DJANGO_DB": "default",
        "POSTGRE_NAME": "postgres",
        "POSTGRE_USER": "postgres",
        "POSTGRE_PASSWORD": "",
        "POSTGRE_HOST": str(folder.sockets / "postgres"),
        "POSTGRE_PORT": "5432",
        "SKIP_TRIGRAM_EXTENSION": "full",
        "SKIP_BTREE_GIN_EXTENSION": "full",
    }
