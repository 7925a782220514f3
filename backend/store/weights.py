"""Find, download and check the pre-trained weights that the setting WEIGHTS names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any
from urllib.request import Request, urlopen

import safetensors.torch
import torch
from torch import Tensor
from torchvision.models import ResNet18_Weights

from backend.base.downloads import download
from backend.base.errors import WeightsError
from backend.base.progress import Progress
from backend.network import resnet

IMAGENET_URL: str = ResNet18_Weights.IMAGENET1K_V1.url
SILENCE_S = 30.0  # after which a download is given up


@dataclass(frozen=True)
class PretrainedWeights:
    """The weights that trainings start from."""

    name: str  # as recorded in a version: "imagenet", "none" or the path
    state: resnet.State | None
    notice: str  # "" or one loud line


def find_weights(
    name: str,
    data_dir: Path,
    *,
    url: str = IMAGENET_URL,
    give_up_after_s: float = 5.0,
    progress: Progress = lambda *_: None,
) -> PretrainedWeights:
    """Return the weights that `name` means: `auto`, `imagenet`, `none` or the path of a state_dict.

    The file may be in safetensors or torch format. WeightsError if the weights cannot be had.
    """
    if name == "none":
        return PretrainedWeights("none", None, "")
    if name == "imagenet":
        state = _download(url, data_dir / "weights", give_up_after_s, progress)
        return PretrainedWeights("imagenet", state, "")
    if name == "auto":
        try:
            return find_weights(
                "imagenet", data_dir, url=url, give_up_after_s=give_up_after_s, progress=progress
            )
        except WeightsError as error:
            notice = f"training starts from NO pre-trained weights and needs more labels: {error}"
            return PretrainedWeights("none", None, notice)
    return PretrainedWeights(name, _read(Path(name)), "")


def _download(url: str, folder: Path, give_up_after_s: float, progress: Progress) -> resnet.State:
    cached = folder / url.rpartition("/")[2]
    if not cached.exists():
        # torchvision names its files by the first digits of their sha256.
        named = re.search(r"-([0-9a-f]+)\.", cached.name)
        try:
            _check_answers(url, give_up_after_s)
            download(
                url,
                cached,
                "weights",
                progress,
                sha256=named[1] if named else "",
                timeout_s=SILENCE_S,
            )
        except (OSError, HTTPException) as error:
            raise WeightsError(
                f"torchvision's ImageNet weights cannot be had from {url} ({error}): set "
                "WEIGHTS=none, or WEIGHTS to the path of a ResNet-18 state_dict, or put that "
                f"file into {folder}"
            ) from None
    return _read(cached, ", and it is downloaded again")


def _check_answers(url: str, give_up_after_s: float) -> None:
    """Raise unless `url` answers in time."""
    errors: Queue[Exception | None] = Queue()

    def ask() -> None:
        try:
            urlopen(Request(url, method="HEAD")).close()
            errors.put(None)
        except (OSError, HTTPException) as error:
            errors.put(error)

    # A thread, because urlopen's timeout applies to each address separately, not to the look-up.
    Thread(target=ask, daemon=True).start()
    try:
        error = errors.get(timeout=give_up_after_s)
    except Empty:
        raise TimeoutError(f"no answer in {give_up_after_s:g} s") from None
    if error is not None:
        raise error


def _read(path: Path, what_then: str = "") -> resnet.State:
    """Read and check a state_dict; `what_then` is what happens once a damaged file is deleted."""
    if not path.is_file():
        raise WeightsError(
            f"WEIGHTS={path} is no file: set auto, imagenet, none "
            "or the path of a ResNet-18 state_dict"
        )
    try:
        if path.suffix == ".safetensors":
            state: Any = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        # Junk makes torch raise any error, with advice to unpickle code: neither is passed on.
        raise WeightsError(
            f"{path} cannot be read as weights: delete it if it is damaged or half a download"
            f"{what_then}; of a pickled model save its state_dict()"
        ) from None
    fault = _find_fault(state)
    if fault:
        advice = f": delete it{what_then}" if what_then else ""
        raise WeightsError(f"{path} is not a ResNet-18 state_dict: {fault}{advice}")
    return dict(state)


def _find_fault(state: Any) -> str:
    """Say why `state` is not a ResNet-18's, whatever its head; "" if it is."""
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        return "it does not map names to tensors"
    shapes = {k: v for k, v in resnet.shapes().items() if not k.startswith("fc.")}
    for name, shape in shapes.items():
        if name not in state:
            if name.endswith("num_batches_tracked"):  # unused, and missing from old files
                continue
            return f"{name} is missing"
        if state[name].shape != shape:
            return f"{name} is {tuple(state[name].shape)}, not {tuple(shape)}"
    foreign = [name for name in state if name not in shapes and not name.startswith("fc.")]
    if foreign:
        return f"{foreign[0]:.80} does not belong to it"
    return next((fault for name in state if (fault := _find_bad_numbers(name, state[name]))), "")


def _find_bad_numbers(name: str, tensor: Tensor) -> str:
    """Say why training cannot start from a tensor's numbers; "" if it can."""
    is_counter = name.endswith("num_batches_tracked")
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_complex():
        return f"{name!r:.80} is no plain tensor of real numbers"
    if not is_counter and not tensor.is_floating_point():
        return f"{name!r:.80} is {tensor.dtype}, no floating-point numbers"
    if not is_counter and not tensor.float().isfinite().all():
        return f"{name!r:.80} holds NaN or infinite numbers"
    return ""
