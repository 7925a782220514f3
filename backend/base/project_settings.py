"""Define the settings of a project: what annotators label, and which model helps them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, WithJsonSchema, field_validator
from pydantic_settings import BaseSettings, NoDecode

ValidatedBy = Literal["known", "people"]
ValidationName = Literal["auto", "known", "people"]
MAX_IMAGE_PIXELS = 50_000_000
ATTACHED = "labelstudio"  # the value of POOL for an existing Label Studio project
HOST = re.compile(r"([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[0-9]+)?")
# JSON and XML must be able to contain class names. Python reads bytes that are not UTF-8 as lone
# surrogates.
UNUSABLE_IN_CLASSES = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def _read_image_size(value: object) -> object:
    text = str(value).strip()
    if text == "auto":
        return text
    if text.isdecimal() and 16 <= int(text) <= 512 and int(text) % 8 == 0:
        return int(text)
    raise ValueError("must be auto, or a multiple of 8 from 16 to 512")


ImageSize = Annotated[
    int | Literal["auto"],
    PlainValidator(_read_image_size),
    WithJsonSchema({"type": "integer", "minimum": 16, "maximum": 512, "multipleOf": 8}),
]


class ProjectSettings(BaseSettings):
    """The settings with which a project is set up."""

    project_title: str = Field(
        "Tightloop",
        min_length=3,
        max_length=50,
        description="The title of the Label Studio project. A new title creates a new project; "
        "without a title, Tightloop continues with the project that was set up first.",
    )
    pool: str = Field(
        "auto",
        description="The images to label: a folder, a list (`.csv`, `.jsonl` or `.parquet`), a "
        "bucket (`s3://` or `gs://`), `cifar10`, or `digits`. `auto` uses CIFAR-10, or the digits "
        "if CIFAR-10 cannot be downloaded. `labelstudio` uses the tasks of an existing Label "
        "Studio project: see `PROJECT_ID`.",
    )
    project_id: int | None = Field(
        None,
        ge=1,
        description="With `POOL=labelstudio`: the id of the existing Label Studio project to which "
        "Tightloop is attached. The id is in the project's address, `/projects/12/data`.",
    )
    image_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="The web servers to which a list of images, or an existing Label Studio "
        "project, may refer, separated by commas: `host` or `host:port`. Other addresses, and "
        "redirects to them, are refused. Images are fetched over `https`, or over `http` from this "
        "machine.",
    )
    classes: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="The classes that annotators choose from, separated by commas. By default, "
        "the classes come from `LABEL_CONFIG`, or else from the names of the class folders.",
    )
    label_config: Path | None = Field(
        None,
        description="The file that contains your own label config, which replaces the config that "
        "Tightloop writes. The file is read again at every set-up.",
    )
    weights: str = Field(
        "auto",
        description="The weights that training runs start from until the body is adapted: "
        "`imagenet`, `none`, or the path of a ResNet-18 state_dict. `auto` uses ImageNet weights, "
        "or none if they cannot be downloaded.",
    )
    image_size: ImageSize = Field(
        "auto",
        description="The side of the square images that the model sees, in pixels. `auto` is `64` "
        "if the images in the pool are at most 64 px wide and high, and `128` if they are larger.",
    )
    task_image_px: int = Field(
        1600,
        ge=256,
        le=8192,
        description="The longest side of the images that annotators see, in pixels. Larger images "
        "are shrunk.",
    )
    task_images: Literal["copy", "url"] = Field(
        "copy",
        description="`copy` gives Label Studio a copy of every image. With `url`, an image that a "
        "list names by its `http(s)` address is not copied; annotators' browsers load the image "
        "from this address.",
    )
    max_image_pixels: int = Field(
        MAX_IMAGE_PIXELS,
        ge=1_000_000,
        le=178_956_970,  # Pillow refuses anything larger
        description="The maximum number of pixels in an image (half as many for WEBP). Larger "
        "images are skipped and listed in the log.",
    )
    seed_labels: int = Field(
        500,
        ge=0,
        description="How many images start with a label from the data set, with the same number "
        "for every class. If fewer labels are available, all of them are used. With `0`, the first "
        "batch is chosen without a model.",
    )
    validation: ValidationName = Field(
        "auto",
        description="Whose labels measure how good a model is. With `known`, images with known "
        "labels are held out for validation. With `people`, annotators label a random sample of "
        "the images, without seeing the model's guess. `auto` uses known labels if there are any "
        "to hold out.",
    )
    validation_labels: int = Field(
        200,
        ge=30,
        le=10_000,
        description="How many images annotators label for validation. A third more are held out, "
        "to replace images that annotators cannot classify. At most a fifth of the images are held "
        "out in total.",
    )
    seed: int = Field(
        0,
        ge=0,
        description="The seed for splits, seed labels and training. The same seed on the same "
        "device gives the same results.",
    )
    blind: bool = Field(
        False,
        description="`true` hides the model's guess from annotators, so that it cannot influence "
        "them.",
    )
    hints: bool = Field(
        False,
        description="`true` shows, below each image, the three classes that the model thought "
        "most likely when it chose that image. `BLIND=true` hides them.",
    )

    @field_validator("classes", mode="before")
    @classmethod
    def _split_classes(cls, classes: Any) -> Any:
        """Split the text at its commas, and check each name."""
        if not isinstance(classes, str):
            return classes
        names = [name.strip() for name in classes.split(",")]
        if not all(names) or len(names) < 2:
            raise ValueError("must name at least two classes, separated by commas: cat,dog,unsure")
        folded = [name.casefold() for name in names]
        if twice := [n for n, f in zip(names, folded, strict=True) if folded.count(f) > 1]:
            raise ValueError(f"names a class more than once: {', '.join(twice)}")
        if unusable := [name for name in names if UNUSABLE_IN_CLASSES.search(name)]:
            raise ValueError(
                f"contains characters that cannot be shown: {', '.join(map(ascii, unusable))}"
            )
        return tuple(names)

    @field_validator("image_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, hosts: Any) -> Any:
        """Split the text at its commas, and check each host."""
        if not isinstance(hosts, str):
            return hosts
        names = [name.strip().lower() for name in hosts.split(",")]
        for name in names:
            if not HOST.fullmatch(name):
                raise ValueError(
                    f"{name!r} is not a host: name hosts without https:// and without a path, "
                    "separated by commas: images.example.org,cdn.example.org:8443"
                )
        return tuple(names)
