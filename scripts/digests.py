"""Pin the images that docker-compose.yml takes from registries, so that every start runs the same.

    python3 -m scripts.digests

Asks the registry what each image's tag means now, downloads it, and writes name:tag@sha256:… into
.env. Run it again to move the pins to what the tags mean by then. Needs the standard library alone.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

from backend.base.command_line import CommandParser, run
from scripts.docker import DockerError, compose_command, docker
from scripts.env_file import COMPOSE_FILE, ENV, read_env, write_values

# An image as docker-compose.yml names it: the variable that may change it, and what it is without.
IMAGE = re.compile(r"\$\{(\w+_IMAGE):-([^}]+)\}")
DIGEST = re.compile(r"^Digest: (sha256:[0-9a-f]{64})$", re.MULTILINE)


@dataclass(frozen=True)
class Image:
    """One image: its variable of .env, and what is in use now."""

    variable: str
    default: str
    now: str  # name:tag, or name:tag@digest if it is pinned

    @property
    def tag(self) -> str:
        """Its name and tag, without the pin."""
        return self.now.partition("@")[0]

    def describe(self, pin: str) -> str:
        """Say what a pin changes."""
        if pin == self.now:
            return f"{self.variable}: is {pin} already"
        if "@" in self.now:
            return f"{self.variable}: moved to {pin} (was {self.now.partition('@')[2]})"
        return f"{self.variable}: pinned to {pin}"


def main() -> int:
    """Pin every image that a registry gives; 1 if one is missing."""
    CommandParser(description=__doc__).parse_args()
    try:
        docker("version", "--format", "{{.Server.Version}}")
        images = find_images()
    except (DockerError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    pins: dict[str, str] = {}
    for image in images:
        try:
            pins[image.variable] = pin = find_pin(image.tag)
        except DockerError as error:
            print(f"{image.variable}: stays {image.now}: {error}", file=sys.stderr)
            continue
        print(image.describe(pin))
        if image.tag != image.default:
            print(f"  docker-compose.yml names {image.default}: to follow it, delete the line")
    return write_pins(images, pins)


def find_images() -> list[Image]:
    """Return the images of docker-compose.yml, as .env has them now."""
    here = read_env(ENV)
    found = dict(IMAGE.findall(COMPOSE_FILE.read_text()))
    return [Image(name, default, here.get(name) or default) for name, default in found.items()]


def find_pin(tag: str) -> str:
    """Download what a tag means now, and return it with its digest; DockerError if it cannot be."""
    if ":" not in tag.rpartition("/")[2]:
        raise DockerError("it names no tag: write name:tag")
    found = DIGEST.search(docker("pull", tag))
    if found is None:
        raise DockerError(f"`docker pull {tag}` told no digest")
    return f"{tag}@{found[1]}"


def write_pins(images: list[Image], pins: dict[str, str]) -> int:
    """Write what is new into .env, and say what to do next."""
    new = {i.variable: pin for i in images if (pin := pins.get(i.variable, i.now)) != i.now}
    if new:
        try:
            write_values(ENV, new)
            print(
                f"{ENV}: wrote {', '.join(new)}; next: {' '.join(compose_command())} up -d --build"
            )
        except OSError as error:
            print(f"{ENV} cannot be written: {error.strerror}", file=sys.stderr)
            return 1
    elif not pins:
        print(f"no registry answered: {ENV} is unchanged", file=sys.stderr)
    else:
        print(f"{ENV}: nothing to change")
    return 0 if len(pins) == len(images) else 1


if __name__ == "__main__":
    run(main)
