"""Define the settings that let the heavy steps run on more than one machine."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings

ScaleName = Literal["local", "ray"]
HOST_AND_PORT = re.compile(r"([a-z0-9_.-]+|\[[0-9a-f:.]+\]):([0-9]{1,5})", re.IGNORECASE)
MAX_PORT = 65535


class ScaleSettings(BaseSettings):
    """Where training, adapting, scoring and embedding run, and where embeddings are kept."""

    scale: ScaleName = Field(
        "local",
        description="Where training, adapting, scoring and embedding run: `local` is this machine, "
        "and `ray` is a Ray cluster.",
    )
    ray_address: str = Field(
        "",
        description="With `SCALE=ray`: the cluster to use. `auto` is the cluster to which this "
        "machine already belongs, and `host:6379` is the head of a cluster that this machine "
        "joins while it needs it. If it is empty, Tightloop starts a cluster of its own on this "
        "machine.",
    )
    store: str = Field(
        "",
        description="The folder or bucket (`s3://bucket/folder`, `gs://…`) for embeddings and, "
        "with `SCALE=ray`, for what the workers of a cluster need. Unless you set it, they are "
        "stored in `DATA_DIR` and `MODEL_DIR`. Two installations must not share a `STORE`.",
    )

    @field_validator("ray_address")
    @classmethod
    def _is_a_cluster(cls, address: str, info: ValidationInfo) -> str:
        """Check the address only with SCALE=ray: Ray's own tools read the same variable."""
        if info.data.get("scale") != "ray" or address in ("", "auto"):
            return address
        if address.startswith("ray://"):
            raise ValueError(
                "is the address of a Ray client, which cannot read files of this machine: name "
                "the cluster's head without ray:// and with its own port, usually host:6379"
            )
        parts = HOST_AND_PORT.fullmatch(address)
        if not parts or not 0 < int(parts[2]) <= MAX_PORT:
            raise ValueError("must be auto, host:port (usually host:6379), or empty")
        return address
