"""Pin the third-party images in docker-compose.yml, so that every start uses the same images.

    python3 -m scripts.digests

Asks the registry which image each tag currently refers to, downloads the image, and writes
name:tag@sha256:… into .env. Run it again to move the pins to newer images. Needs only the standard
library.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

from backend.base.command_line import CommandParser, run
from scripts.compose.docker import DockerError, compose_command, docker
from scripts.compose.env import ENV, read_env, write_values
from scripts.compose.preflight import COMPOSE_FILE

# An image in docker-compose.yml: the variable that overrides it, and the default.
IMAGE = re.compile(r"\$\{(\w+_IMAGE):-([^}]+)\}")
DIGEST = re.compile(r"^Digest: (sha256:[0-9a-f]{64})$", re.MULTILINE)


@dataclass(frozen=True)
class Image:
    """A third-party image: its variable in .env, its default name and its current name."""

    variable: str
    default: str
    now: str  # name:tag, or name:tag@digest if pinned

    @property
    def tag(self) -> str:
        """The image's name and tag, without the digest."""
        return self.now.partition("@")[0]

    def describe(self, pin: str) -> str:
        """Describe what a pin changes."""
        if pin == self.now:
            return f"{self.variable}: is already {pin}"
        if "@" in self.now:
            return f"{self.variable}: moved to {pin} (was {self.now.partition('@')[2]})"
        return f"{self.variable}: pinned to {pin}"


def main() -> int:
    """Pin every image that is available; return 1 if a registry lacks an image."""
    CommandParser(description=__doc__).parse_args()
    docker("version", "--format", "{{.Server.Version}}")
    images = find_images()
    pins: dict[str, str] = {}
    for image in images:
        try:
            pins[image.variable] = pin = find_pin(image.tag)
        except DockerError as error:
            print(f"{image.variable}: kept {image.now}: {error}", file=sys.stderr)
            continue
        print(image.describe(pin))
        if image.tag != image.default:
            print(f"  docker-compose.yml names {image.default}: to use it, delete the line")
    write_pins(images, pins)
    return 0 if len(pins) == len(images) else 1


def find_images() -> list[Image]:
    """Return the images in docker-compose.yml, with the overrides from .env."""
    env = read_env(ENV)
    found = dict(IMAGE.findall(COMPOSE_FILE.read_text()))
    return [Image(name, default, env.get(name) or default) for name, default in found.items()]


def find_pin(tag: str) -> str:
    """Download the image that a tag currently refers to; return the tag with its digest.

    Raises DockerError if the registry does not have the image.
    """
    if ":" not in tag.rpartition("/")[2]:
        raise DockerError("the tag is missing: write name:tag")
    found = DIGEST.search(docker("pull", tag))
    if found is None:
        raise DockerError(f"`docker pull {tag}` printed no digest")
    return f"{tag}@{found[1]}"


def write_pins(images: list[Image], pins: dict[str, str]) -> None:
    """Write new pins into .env, and print what to do next."""
    new = {i.variable: pin for i in images if (pin := pins.get(i.variable, i.now)) != i.now}
    if new:
        write_values(ENV, new)
        command = " ".join(compose_command())
        print(f"{ENV}: wrote {', '.join(new)}; next: {command} up -d --build")
    elif pins:
        print(f"{ENV}: nothing to change")
    else:
        print(f"no registry responded: {ENV} is unchanged", file=sys.stderr)


if __name__ == "__main__":
    run(main)
