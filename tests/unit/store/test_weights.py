"""Load weights for each value of `WEIGHTS`, with a local server in place of torchvision's."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import safetensors.torch
import torch
from torchvision.models import ResNet18_Weights

from backend.base.errors import WeightsError
from backend.network import resnet
from backend.store.weights import IMAGENET_URL, find_weights


@pytest.fixture(scope="module")
def state() -> resnet.State:
    return resnet.build(7, None, seed=0).state_dict()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    """Serve the files of tmp_path/host; return the address."""
    (tmp_path / "host").mkdir()
    handler = partial(QuietHandler, directory=str(tmp_path / "host"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None: ...


def offer(folder: Path, state: object) -> str:
    """Save a weights file named as torchvision does, with the first digits of its sha256."""
    torch.save(state, draft := folder / "draft")
    name = f"resnet18-{hashlib.sha256(draft.read_bytes()).hexdigest()[:8]}.pth"
    draft.rename(folder / name)
    return name


def test_weights_are_downloaded_once_and_then_load_without_a_network(
    tmp_path: Path, host: str, state: resnet.State
) -> None:
    name = offer(tmp_path / "host", state)
    first = find_weights("imagenet", tmp_path, url=f"{host}/{name}")
    (tmp_path / "host" / name).unlink()
    again = find_weights("auto", tmp_path, url=f"{host}/{name}")
    assert first.name == again.name == "imagenet"
    assert first.notice == again.notice == ""
    assert first.state is not None
    assert again.state is not None
    assert torch.equal(first.state["conv1.weight"], state["conv1.weight"])
    assert torch.equal(again.state["conv1.weight"], state["conv1.weight"])


def test_a_download_reports_progress(tmp_path: Path, host: str, state: resnet.State) -> None:
    name = offer(tmp_path / "host", state)
    megabytes = (tmp_path / "host" / name).stat().st_size // 1_000_000
    calls: list[tuple[str, int, int]] = []
    find_weights(
        "imagenet", tmp_path, url=f"{host}/{name}", progress=lambda *now: calls.append(now)
    )
    assert calls[0] == ("downloading weights", 1, megabytes)
    assert calls[-1] == ("downloading weights", megabytes, megabytes)


def test_a_download_with_another_hash_is_refused_and_not_kept(
    tmp_path: Path, host: str, state: resnet.State
) -> None:
    name = offer(tmp_path / "host", state)
    wrong_name = "resnet18-00000000.pth"
    (tmp_path / "host" / name).rename(tmp_path / "host" / wrong_name)
    with pytest.raises(WeightsError, match="invalid hash"):
        find_weights("imagenet", tmp_path, url=f"{host}/{wrong_name}")
    assert list((tmp_path / "weights").iterdir()) == []


def test_imagenet_by_name_without_a_network_says_what_to_set_instead(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="WEIGHTS=none, or WEIGHTS to the path") as error:
        find_weights("imagenet", tmp_path, url="http://127.0.0.1:1/resnet18-00000000.pth")
    assert str(tmp_path / "weights") in str(error.value)


def test_auto_without_a_network_uses_no_weights_and_says_so(tmp_path: Path) -> None:
    found = find_weights("auto", tmp_path, url="http://127.0.0.1:1/resnet18-00000000.pth")
    assert (found.name, found.state) == ("none", None)
    assert "NO pre-trained weights" in found.notice


def test_a_host_that_never_responds_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/resnet18-00000000.pth"
        with pytest.raises(WeightsError, match=r"no response within 0\.2 s"):
            find_weights("imagenet", tmp_path, url=url, give_up_after_s=0.2)


def test_none_uses_no_weights_without_a_notice(tmp_path: Path) -> None:
    found = find_weights("none", tmp_path, url="http://127.0.0.1:1/")
    assert (found.name, found.state, found.notice) == ("none", None, "")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_path_is_read_and_recorded(tmp_path: Path, state: resnet.State, suffix: str) -> None:
    path = tmp_path / f"mine{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    found = find_weights(str(path), tmp_path)
    assert (found.name, found.notice) == (str(path), "")
    assert found.state is not None
    assert torch.equal(found.state["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])


def test_the_fault_of_a_weights_file_is_named(tmp_path: Path, state: resnet.State) -> None:
    without = {name: tensor for name, tensor in state.items() if name != "layer2.0.bn1.bias"}
    for content, fault in [
        (without, "layer2.0.bn1.bias is missing"),
        (state | {"conv1.weight": torch.zeros(64, 3, 3, 3)}, r"\(64, 3, 3, 3\), not \(64, 3, 7, 7"),
        (state | {"layer1.2.bn1.weight": torch.zeros(64)}, "layer1.2.bn1.weight does not belong"),
        ({"state_dict": state}, "not a mapping of names to tensors"),
    ]:
        torch.save(content, tmp_path / "bad.pth")
        with pytest.raises(WeightsError, match=fault):
            find_weights(str(tmp_path / "bad.pth"), tmp_path)


@pytest.mark.parametrize("name", ["damaged.pth", "damaged.safetensors", "pickled.pth"])
def test_an_unreadable_file_is_named(tmp_path: Path, name: str) -> None:
    if name == "pickled.pth":  # code: torch would run it on loading
        torch.save(Path("whatever"), tmp_path / name)
    else:
        (tmp_path / name).write_bytes(b"half a download")
    with pytest.raises(WeightsError, match=f"{name} cannot be read as weights"):
        find_weights(str(tmp_path / name), tmp_path)


def test_a_missing_path_says_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="set auto, imagenet, none or the path"):
        find_weights("imagnet", tmp_path)


def poisoned(state: resnet.State, number: float) -> resnet.State:
    bad = state["layer3.0.conv1.weight"].clone()
    bad[5, 0, 1, 1] = number
    return state | {"layer3.0.conv1.weight": bad}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_with_nan_are_refused_naming_file_and_tensor(
    tmp_path: Path, state: resnet.State, suffix: str, number: float
) -> None:
    path = tmp_path / f"mine{suffix}"
    bad = poisoned(state, number)
    torch.save(bad, path) if suffix == ".pth" else safetensors.torch.save_file(bad, path)
    with pytest.raises(
        WeightsError, match=rf"mine\{suffix} .*layer3\.0\.conv1\.weight' contains NaN"
    ):
        find_weights(str(path), tmp_path)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({5: torch.zeros(1)}, "not a mapping of names to tensors"),
        ({"conv1.weight": torch.zeros(64, 3, 7, 7).to_sparse()}, "not an ordinary|cannot be read"),
        (
            {"conv1.weight": torch.zeros(64, 3, 7, 7, dtype=torch.complex64)},
            "not an ordinary tensor",
        ),
        ({"conv1.weight": torch.zeros(64, 3, 7, 7, device="meta")}, "not an ordinary tensor"),
        (
            {"conv1.weight": torch.zeros(64, 3, 7, 7, dtype=torch.int8)},
            "not floating-point numbers",
        ),
        ({"fc.weight": torch.full((7, 512), torch.nan)}, "contains NaN"),
    ],
)
def test_unusable_tensors_are_named(
    tmp_path: Path, state: resnet.State, change: dict[Any, torch.Tensor], fault: str
) -> None:
    torch.save({**state, **change}, tmp_path / "bad.pth")
    with pytest.raises(WeightsError, match=fault):
        find_weights(str(tmp_path / "bad.pth"), tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff" * 8 + b"{}", id="a header of 18 EB"),
        pytest.param((200_000).to_bytes(8, "little") + b"[" * 200_000, id="nested 200,000 deep"),
        pytest.param((2).to_bytes(8, "little") + b"{}", id="no tensor"),
        pytest.param(b"\x80\x02" + b"(" * 200_000, id="a pickle nested 200,000 deep"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_weights_file_is_named_in_one_sentence(
    tmp_path: Path, suffix: str, content: bytes
) -> None:
    (tmp_path / f"bad{suffix}").write_bytes(content)
    with pytest.raises(WeightsError, match=f"bad{suffix} "):
        find_weights(str(tmp_path / f"bad{suffix}"), tmp_path)


@pytest.mark.parametrize("damage", ["half of it", "NaN"])
def test_auto_says_which_damaged_download_to_delete(
    tmp_path: Path, state: resnet.State, damage: str
) -> None:
    cached = tmp_path / "weights" / "resnet18-f37072fd.pth"
    cached.parent.mkdir()
    torch.save(poisoned(state, float("nan")), cached)
    if damage == "half of it":
        cached.write_bytes(cached.read_bytes()[:1_000_000])
    found = find_weights("auto", tmp_path, url=f"http://127.0.0.1:1/{cached.name}")
    assert (found.name, found.state) == ("none", None)
    assert str(cached) in found.notice
    assert "delete it" in found.notice
    assert "to download it again" in found.notice


def test_the_address_of_the_imagenet_weights_is_torchvisions() -> None:
    assert ResNet18_Weights.IMAGENET1K_V1.url == IMAGENET_URL
