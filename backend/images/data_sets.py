"""Cache the data sets that POOL may name instead of a source: CIFAR-10 and the digits."""

from __future__ import annotations

from pathlib import Path

from backend.base.errors import PoolError
from backend.base.progress import Progress
from backend.images.cifar10 import Cifar10UnavailableError, cache_cifar10
from backend.images.digits import cache_digits


def cache_data_set(name: str, data_dir: Path, progress: Progress) -> tuple[str, Path, str] | None:
    """Cache CIFAR-10 or the digits, and return the name, the cache folder and a notice.

    Returns None for any other name.
    """
    notice = ""
    if name in ("auto", "cifar10"):
        try:
            return "cifar10", cache_cifar10(data_dir, progress), ""
        except Cifar10UnavailableError as error:
            if name == "cifar10":
                raise PoolError(
                    f"{error}: set POOL=digits or POOL=<folder>, "
                    f"or put cifar-10-python.tar.gz into DATA_DIR={data_dir}"
                ) from error
            notice = f"{error}: using scikit-learn's handwritten digits instead"
    if notice or name == "digits":
        return "digits", cache_digits(data_dir), notice
    return None
