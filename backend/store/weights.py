"""Find, download and check the pre-trained weights named by the WEIGHTS setting."""

from __future__ import annotations

import re
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.request import Request, urlopen

import safetensors.torch
import torch
from torch import Tensor

from backend.base.downloads import download
from backend.base.errors import WeightsError
from backend.base.progress import Progress
from backend.network import resnet
from backend.network.resnet_layout import COUNTER, HEAD_TENSORS, resnet18

# Copied from torchvision, because importing it takes seconds.
IMAGENET_URL = "https://download.pytorch.org/models/resnet18-f37072fd.pth"
SILENCE_S = 30.0  # a download is abandoned if nothing arrives for this long


@dataclass(frozen=True)
class PretrainedWeights:
    """The weights that training starts from."""

    name: str  # recorded in each version: "imagenet", "none" or the path
    state: resnet.State | None
    notice: str  # a one-line warning, or ""


def find_weights(
    name: str,
    data_dir: Path,
    *,
    url: str = IMAGENET_URL,
    give_up_after_s: float = 5.0,
    progress: Progress = lambda *_: None,
) -> PretrainedWeights:
    """Return the weights for `name`: `auto`, `imagenet`, `none` or the path of a state_dict.

    A file may be in safetensors or torch format. If the weights cannot be read or downloaded, this
    returns no weights and a notice for `auto`, and otherwise raises WeightsError.
    """
    if name == "none":
        return PretrainedWeights("none", None, "")
    if name not in ("auto", "imagenet"):
        return PretrainedWeights(name, _read(Path(name)), "")
    try:
        state = _download(url, data_dir / "weights", give_up_after_s, progress)
        return PretrainedWeights("imagenet", state, "")
    except WeightsError as error:
        if name == "imagenet":
            raise
        notice = f"training starts from NO pre-trained weights and needs more labels: {error}"
        return PretrainedWeights("none", None, notice)


def _download(url: str, folder: Path, give_up_after_s: float, progress: Progress) -> resnet.State:
    cached = folder / url.rpartition("/")[2]
    if not cached.exists():
        # The file's name contains the first digits of its sha256.
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
                f"torchvision's ImageNet weights cannot be downloaded from {url} ({error}): set "
                "WEIGHTS=none, or WEIGHTS to the path of a ResNet-18 state_dict, or put that "
                f"file into {folder}"
            ) from None
    return _read(cached, " to download it again")


def _check_answers(url: str, give_up_after_s: float) -> None:
    """Raise TimeoutError if `url` does not respond in time."""
    errors: list[Exception] = []

    def request() -> None:
        try:
            urlopen(Request(url, method="HEAD")).close()
        except (OSError, HTTPException) as error:
            errors.append(error)

    # Use a thread, because urlopen's timeout applies to each address separately and not to the
    # lookup of the host name.
    thread = Thread(target=request, daemon=True)
    thread.start()
    thread.join(give_up_after_s)
    if thread.is_alive():
        raise TimeoutError(f"no response within {give_up_after_s:g} s")
    if errors:
        raise errors[0]


def _read(path: Path, after_deletion: str = "") -> resnet.State:
    """Read and check a state_dict; `after_deletion` describes the effect of deleting the file."""
    if not path.is_file():
        raise WeightsError(
            f"WEIGHTS={path} does not exist or is not a file: set auto, imagenet, none "
            "or the path of a ResNet-18 state_dict"
        )
    try:
        if path.suffix == ".safetensors":
            state: Any = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        # An invalid file may make torch raise any error. Hide that error, because it may
        # recommend unsafe unpickling.
        raise WeightsError(
            f"{path} cannot be read as weights: if it is damaged or incomplete, delete it"
            f"{after_deletion}; if it contains a pickled model, save its state_dict() instead"
        ) from None
    if fault := _find_fault(state):
        advice = f": delete it{after_deletion}" if after_deletion else ""
        raise WeightsError(f"{path} is not a ResNet-18 state_dict: {fault}{advice}")
    return dict(state)


def _find_fault(state: Any) -> str:
    """Return why `state` does not fit a ResNet-18, ignoring its head, or return ""."""
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        return "it is not a mapping of names to tensors"
    body = {k: v.shape for k, v in resnet18(n_classes=2).items() if k not in HEAD_TENSORS}
    for name, shape in body.items():
        # The batch counters are not used, and old files lack them.
        if name not in state and not name.endswith(COUNTER):
            return f"{name} is missing"
        if name in state and state[name].shape != shape:
            return f"{name} is {tuple(state[name].shape)}, not {shape}"
    for name, tensor in state.items():
        if name not in body and not name.startswith("fc."):
            return f"{name:.80} does not belong to it"
        if fault := _find_bad_numbers(tensor, is_counter=name.endswith(COUNTER)):
            return f"{name!r:.80} {fault}"
    return ""


def _find_bad_numbers(tensor: Tensor, *, is_counter: bool) -> str:
    """Return why training cannot start from a tensor's values, or return ""."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_complex():
        return "is not an ordinary tensor of real numbers"
    if not is_counter and not tensor.is_floating_point():
        return f"contains {tensor.dtype}, not floating-point numbers"
    if not is_counter and not tensor.float().isfinite().all():
        return "contains NaN or infinite numbers"
    return ""
