"""Find the source that POOL names: a folder, a list of images, or a bucket."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from backend.base.errors import PoolError
from backend.base.progress import Progress
from backend.images.bucket import PACKAGES, Bucket
from backend.images.folder import Folder
from backend.images.image_hosts import ImageHosts
from backend.images.image_list import ImageList
from backend.images.list_file import LIST_FORMATS
from backend.images.listing import Listing


class Source(Protocol):
    """A place that contains images."""

    @property
    def name(self) -> str:
        """Return the name to record: the absolute path of a folder or list, or a bucket's URL."""

    def list(self, progress: Progress) -> Listing:
        """List all images.

        Raises PoolError, for example if the folder is missing or unreadable, or has no images.
        """

    def open(self, location: str) -> BinaryIO:
        """Open an image file. Raises ImageError or OSError with the reason."""

    def prefetch(self, locations: Sequence[str]) -> None:
        """Fetch these images in advance if fetching them together is faster."""

    def url(self, location: str) -> str | None:
        """Return the address at which a browser can open the image, or None."""


class MissingSource:
    """A source that is unavailable, for example because a disk is not mounted."""

    def __init__(self, name: str, fault: str) -> None:
        self.name, self.fault = name, fault

    def list(self, progress: Progress) -> Listing:  # noqa: ARG002
        """Raise PoolError with the reason."""
        raise PoolError(self.fault)

    def open(self, location: str) -> BinaryIO:  # noqa: ARG002
        """Raise OSError with the reason."""
        raise OSError(self.fault)

    def prefetch(self, locations: Sequence[str]) -> None:
        """Do nothing, because no image can be opened."""

    def url(self, location: str) -> str | None:  # noqa: ARG002
        """Return None, since no image can be opened."""
        return None


def find_source(name: str, *, image_hosts: Sequence[str]) -> Source:
    """Return the source with this name, without listing its images.

    A list may refer to images on `image_hosts` (host or host:port). Raises PoolError if `name`
    cannot be a source.
    """
    scheme, is_url, _ = name.partition("://")
    if is_url:
        if scheme not in PACKAGES:
            raise PoolError(
                f"POOL={scheme}://…: use s3:// or gs://; to use images at https addresses, write a "
                "list of them"
            )
        return Bucket(name)
    try:
        path = Path(name).expanduser().resolve()
        if path.is_dir():
            return Folder(path)
        if path.is_file() and path.suffix.lower() in LIST_FORMATS:
            return ImageList(path, ImageHosts(image_hosts))
    except (OSError, RuntimeError, ValueError) as error:  # a link loop, or an unknown user's home
        raise PoolError(f"POOL={name}: {error}") from None
    fault = "not a list of images" if path.is_file() else "no such folder or list"
    raise PoolError(
        f"POOL={name}: {fault}; allowed are auto, cifar10, digits, a folder's path, "
        f"a list ({', '.join(LIST_FORMATS)}), or a bucket (s3://, gs://)"
    )
