"""List and open images in an S3 or Google Cloud Storage bucket."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import fsspec

from backend.base.errors import PoolError
from backend.base.progress import Progress
from backend.images.layout import list_by_path
from backend.images.listing import IMAGE_SUFFIXES, NOT_SUPPORTED, Listing, shown, summarize

# Scheme -> the package that reads such buckets, and where the package looks for credentials.
PACKAGES = {
    "s3": ("s3fs", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws"),
    "gs": ("gcsfs", "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`"),
}
OPTIONS: dict[str, dict[str, Any]] = {
    # Send one request per file, and report an unreachable server within seconds.
    "s3": {"max_concurrency": 1, "config_kwargs": {"retries": {"max_attempts": 1}}},
    "gs": {},
}


class Bucket:
    """All images below s3://bucket/prefix/ or gs://bucket/prefix/, labeled or not (see layout.py).

    Hidden files are ignored.
    """

    def __init__(self, url: str) -> None:
        """Prepare to read the bucket without connecting to it yet.

        Raises PoolError if the URL is invalid or a package is missing.
        """
        self.name = f"{url.rstrip('/')}/"
        try:
            self._files = BucketFiles(url)
        except OSError as error:
            raise PoolError(f"POOL={shown(url)}: {error}") from None

    def list(self, progress: Progress) -> Listing:
        """List all images; see `Source.list`."""
        progress("listing images", 0, 0)
        files: dict[str, tuple[int, str]] = {}
        left_out: dict[str, str] = {}
        try:
            found = self._files.find()
        except OSError as error:
            raise PoolError(f"POOL={self.name}: {error}") from None
        while found:  # frees memory: each description takes a kilobyte
            location, about = found.popitem()
            path = location.removeprefix(self.name)
            if path.endswith("/") or any(part.startswith(".") for part in path.split("/")):
                continue  # a placeholder for a folder, or hidden
            if not path.lower().endswith(IMAGE_SUFFIXES):
                left_out[location] = NOT_SUPPORTED
                continue
            etag = about.get("ETag") or about.get("etag") or ""
            files[path] = about.get("size", -1), etag.strip('"')
        listing = list_by_path(files, left_out, root=self.name)
        if not listing.images:
            why = f" ({summarize(left_out, 0)})" if left_out else ""
            raise PoolError(f"POOL={self.name}: no images below this address{why}")
        return listing

    def open(self, location: str) -> BinaryIO:
        """Read an image; see `Source.open`."""
        return self._files.open(location)

    def prefetch(self, locations: Sequence[str]) -> None:
        """Do nothing, because images are read one at a time."""

    def url(self, location: str) -> str | None:  # noqa: ARG002
        """Return None, because a browser has no credentials for the bucket."""
        return None


class BucketFiles:
    """The files of one bucket, through fsspec with credentials from the environment."""

    def __init__(self, url: str) -> None:
        """Raise OSError if the URL does not name a bucket, or if a package is missing."""
        parts = urlsplit(url)
        self._url = url
        self._scheme, self._bucket = parts.scheme, parts.netloc
        package, _ = PACKAGES[parts.scheme]
        if not parts.netloc or "@" in parts.netloc:
            raise OSError(f"write {parts.scheme}://bucket/…, without a user name or password")
        try:
            self._file_system = fsspec.filesystem(
                parts.scheme,
                use_listings_cache=False,
                skip_instance_cache=True,
                **OPTIONS[parts.scheme],
            )
        except ImportError:
            raise OSError(f"the package {package} is missing: pip install {package}") from None
        except Exception as error:  # gcsfs looks for credentials here
            raise OSError(self._explain(error)) from None

    def find(self) -> dict[str, dict[str, Any]]:
        """Return fsspec's description of each file below the URL, by file URL. Raises OSError."""
        try:
            found = self._file_system.find(self._url, detail=True)
        except Exception as error:  # botocore's and Google's errors have no common base
            raise OSError(self._explain(error)) from None
        return {f"{self._scheme}://{name}": about for name, about in found.items()}

    def open(self, location: str) -> BinaryIO:
        """Read a file. Raises OSError."""
        try:
            return io.BytesIO(self.read(location))
        except FileNotFoundError:
            raise OSError("no such file in the bucket") from None

    def read(self, location: str) -> bytes:
        """Return a file's content. Raises OSError, FileNotFoundError if there is no such file."""
        try:
            content: bytes = self._file_system.cat_file(location)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise OSError(self._explain(error)) from None
        return content

    def write(self, location: str, content: bytes) -> None:
        """Write a file, which readers see only as a whole. Raises OSError."""
        try:
            self._file_system.pipe_file(location, content)
        except Exception as error:
            raise OSError(self._explain(error, "write to")) from None

    def delete(self, location: str) -> None:
        """Delete a file, or all files below a location, if there are any. Raises OSError."""
        try:
            self._file_system.rm(location, recursive=True)
        except FileNotFoundError:
            return
        except Exception as error:
            raise OSError(self._explain(error, "delete from")) from None

    def check(self, location: str) -> None:
        """Raise OSError if the bucket refuses access to a file. A missing file is not an error."""
        try:
            self._file_system.info(location)
        except FileNotFoundError:
            return
        except Exception as error:
            raise OSError(self._explain(error)) from None

    def _explain(self, error: Exception, wanted: str = "list and read") -> str:
        """Return a message that states what is wrong and what to do about it.

        The libraries' own messages are not repeated, because they may contain parts of credentials.
        """
        name, bucket = type(error).__name__, f"{self._scheme}://{self._bucket}"
        settings = PACKAGES[self._scheme][1]
        if isinstance(error, FileNotFoundError):
            return f"the bucket {bucket} does not exist: check its name"
        if name in ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"):
            public = f"FSSPEC_{self._scheme.upper()}_"
            return (
                f"no credentials for {bucket}: set {settings}; for a public bucket set {public}"
                + ("ANON=true" if self._scheme == "s3" else "TOKEN=anon")
            )
        is_forbidden = isinstance(error, PermissionError) or str(error).startswith("Forbidden")
        if is_forbidden or str(getattr(error, "code", "")) in ("401", "403"):
            return (
                f"access to {bucket} was refused: check that its owner lets you {wanted} it, "
                f"and that the credentials are right ({settings})"
            )
        return f"{bucket} cannot be reached ({name}): check the network and the address"
