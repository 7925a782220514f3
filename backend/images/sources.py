"""Find the source that POOL names: a folder, a list of images, or a bucket."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from backend.base.errors import PoolError
from backend.base.progress import Progress
from backend.images.folder import Folder
from backend.images.listing import Listing


class Source(Protocol):
    """A place that holds images."""

    @property
    def name(self) -> str:
        """The name to record: an absolute folder, an absolute list, or s3://bucket/prefix/."""

    def list(self, progress: Progress) -> Listing:
        """List all images.

        Raises PoolError, for example if the folder is missing, may not be read, or has no image.
        """

    def open(self, location: str) -> BinaryIO:
        """Open the file of an image. Raises ImageError or OSError with the reason."""

    def url(self, location: str) -> str | None:
        """Return the address at which a browser can open the image, or None."""


def find_source(name: str, *, image_hosts: Sequence[str]) -> Source:
    """Return the source that `name` means, without listing it.

    A list may name images on `image_hosts` (host or host:port). Raises PoolError if `name` cannot
    be a source.
    """
    del image_hosts  # used by lists
    try:
        path = Path(name).expanduser().resolve()
    except RuntimeError as error:  # a symbolic link loop, or the home of an unknown user
        raise PoolError(f"POOL={name}: {error}") from None
    if not path.is_dir():
        raise PoolError(
            f"POOL={name}: no such folder; allowed are auto, cifar10, digits or a folder's path"
        )
    return Folder(path)
