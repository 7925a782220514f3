"""Adapt a body to a pool on a Ray cluster; the workers read the images where they run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from backend.images.image_reader import ImageReader, ReaderImages
from backend.network import resnet
from backend.network.adaptation import Adaptation, AdaptationRecipe
from backend.network.team import MIN_PART
from backend.scale.cluster import connected
from backend.scale.nodes import matching_nodes, training_workers
from backend.scale.team_run import Member, run_team
from backend.store.place import Place
from backend.store.tensor_file import from_bytes, to_bytes

LOCATIONS, START, RESUMED = "locations.parquet", "start.safetensors", "resumed.safetensors"
SPENT, IS_COMPLETE = "spent_s", "is_complete"  # beside the tensors of the adaptation

# Returns which share of an adaptation is done, from the seconds spent and the passes done.
ShareDone = Callable[[float, float], float]


@dataclass(frozen=True)
class Work:
    """What each worker needs to know. The weights and the images' locations are in files."""

    inputs: Place
    reader: ImageReader
    recipe: AdaptationRecipe
    may_flip: bool
    seed: int
    spent_s: float
    share_done: ShareDone


@dataclass(frozen=True)
class Adapted:
    """An adaptation as the workers left it."""

    state: resnet.State  # for `Adaptation.load_state_dict`
    spent_s: float
    is_complete: bool  # False if the driver asked the workers to stop


def adapt(
    reader: ImageReader,
    locations: Sequence[str],
    *,
    start: resnet.State | None,
    resumed: resnet.State | None,
    spent_s: float,
    share_done: ShareDone,
    recipe: AdaptationRecipe,
    may_flip: bool,
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
    address: str,
    place: Place,
    name: str,
    may_go_on: Callable[[float, float], bool],
) -> Adapted:
    """Adapt on the cluster at `address` until `share_done` returns 1 or `may_go_on` False.

    `may_go_on(spent_s, passes)` is called about once a second. `resumed` is the state of an
    adaptation that was interrupted after `spent_s` seconds. As many workers share each batch as get
    MIN_PART images of it, so the batch size and learning rate stay those of one machine. A run with
    the name of one that was killed goes on from its last checkpoint, which is kept below `place`.
    """
    inputs = place.below(f"{name}-inputs")
    with connected(address):
        workers = training_workers(matching_nodes(), device, recipe.batch_size // MIN_PART)
        file = BytesIO()
        pq.write_table(pa.table({"location": pa.array(locations, pa.string())}), file)
        inputs.write(LOCATIONS, file.getvalue())
        for file_name, state in ((START, start), (RESUMED, resumed)):
            arrays = {key: tensor.cpu().numpy() for key, tensor in (state or {}).items()}
            inputs.write(file_name, to_bytes(arrays))
        work = Work(inputs, reader, recipe, may_flip, seed, spent_s, share_done)
        try:
            result = run_team(_adapt, work, place, name, workers, may_go_on)
        finally:
            place.delete(f"{name}-inputs")
    spent, is_complete = float(result.pop(SPENT)), bool(result.pop(IS_COMPLETE))
    return Adapted(result, spent, is_complete)


def _adapt(member: Member, work: Work) -> resnet.State:
    table = pq.read_table(BytesIO(work.inputs.read(LOCATIONS)))
    work.reader.check()
    adaptation = Adaptation(
        ReaderImages(work.reader, table["location"]),
        _read(work.inputs, START) or None,
        recipe=work.recipe,
        may_flip=work.may_flip,
        seed=work.seed,
        device=member.device,
        team=member.team,
    )
    spent_s = work.spent_s
    if state := (member.checkpoint() or _read(work.inputs, RESUMED)):
        spent_s = float(state.pop(SPENT, torch.tensor(spent_s)))
        adaptation.load_state_dict(state)
    done = work.share_done(spent_s, adaptation.passes_done)
    before, may_go_on = time.monotonic(), True

    def state_dict() -> resnet.State:
        return adaptation.state_dict() | {SPENT: torch.tensor(spent_s, dtype=torch.float64)}

    while done < 1 and may_go_on:
        adaptation.step(done)
        now = time.monotonic()
        # The clock of the first worker counts, so that all of them end with the same step.
        spent_s, before = member.team.agree(spent_s + now - before), now
        done = work.share_done(spent_s, adaptation.passes_done)
        may_go_on = done >= 1 or member.may_go_on(spent_s, adaptation.passes_done, state_dict)
    return state_dict() | {IS_COMPLETE: torch.tensor(done >= 1)}


def _read(inputs: Place, name: str) -> resnet.State:
    arrays = from_bytes(inputs.read(name))
    return {key: torch.from_numpy(array) for key, array in arrays.items()}
