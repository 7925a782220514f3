"""Adapt one body to a simulation's pool, which all runs of the simulation then start from."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import safe_open

from backend.base.errors import SettingsError
from backend.base.progress import Progress
from backend.images.pool import Pool
from backend.network.adaptation import Adaptation, AdaptationRecipe
from backend.store.weights import find_weights
from scripts.research.simulation import PLAN, Plan

BODY = "body.safetensors"  # in the folder `adapted` of a simulation
FIGURES = "adapted.json"
CHECKPOINT = "adapting.safetensors"
CHECKPOINT_EVERY_S = 60.0
SEED = 0  # the body is the same for all runs of a simulation
# What must match if a simulation uses the body of another one.
SHARED_FIELDS = ("pool", "weights", "image_size", "pool_fraction", "duplicates")


@dataclass(frozen=True)
class AdaptedBody:
    """A body that was adapted to a pool; the figures are saved as adapted.json."""

    images: int
    steps: int
    passes: float
    seconds: float
    device: str
    threads: int

    def describe(self) -> str:
        """Describe how the body was adapted."""
        return (
            f"one body for all seeds, adapted to {self.images:,} images for "
            f"{self.seconds / 60:.1f} minutes ({self.device}, {self.threads} threads; "
            f"{self.steps:,} steps, {self.passes:.1f} passes over the pool)"
        )


def find_body(folder: Path) -> tuple[Path, AdaptedBody]:
    """Return the adapted body in a simulation's folder, and how it was made."""
    path = folder / "adapted" / BODY
    if not path.exists():
        raise SettingsError(f"{folder} contains no adapted body: run a simulation with --adapt")
    return path, AdaptedBody(**json.loads(path.with_name(FIGURES).read_text()))


def check_same_pool(plan: Plan, folder: Path) -> None:
    """Raise SettingsError if a simulation cannot use the body that another one adapted."""
    path = folder / PLAN
    if not path.exists():
        raise SettingsError(f"--adapt-from {folder} is not the folder of a simulation")
    theirs, own = json.loads(path.read_text()), asdict(plan)
    if differing := [name for name in SHARED_FIELDS if theirs.get(name) != own[name]]:
        raise SettingsError(
            f"--adapt-from {folder} was adapted with another {', '.join(differing)}: choose a "
            "simulation of the same pool, or use --adapt"
        )


def adapt_body(
    plan: Plan, pool: Pool, out: Path, data_dir: Path, device: torch.device, progress: Progress
) -> tuple[Path, AdaptedBody]:
    """Adapt the plan's weights to the images that may be queried, unless this is already done.

    Validation and test images are not used. An interrupted call goes on from the last checkpoint.
    """
    folder = out / "adapted"
    if (folder / BODY).exists():
        return find_body(out)
    folder.mkdir(parents=True, exist_ok=True)
    adaptation = Adaptation(
        pool.images,
        find_weights(plan.weights, data_dir).state,
        recipe=AdaptationRecipe(image_size=plan.image_size),
        may_flip=pool.may_flip,
        seed=SEED,
        device=device,
    )
    spent = _train(adaptation, 60 * plan.adapt, folder / CHECKPOINT, device, progress)
    figures = AdaptedBody(
        images=len(pool.image_ids),
        steps=adaptation.steps_done,
        passes=adaptation.passes_done,
        seconds=spent,
        device=device.type,
        threads=torch.get_num_threads(),
    )
    progress("refitting the batch-norm statistics", 0, 0)
    draft = folder / f"{BODY}.draft"
    safetensors.torch.save_file(dict(adaptation.finish()), draft)
    (folder / FIGURES).write_text(json.dumps(asdict(figures), indent=2))
    draft.replace(folder / BODY)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return folder / BODY, figures


def _train(
    adaptation: Adaptation,
    budget_s: float,
    checkpoint: Path,
    device: torch.device,
    progress: Progress,
) -> float:
    """Train until the budget is spent, also counting earlier calls; return the seconds spent."""
    spent = _load(adaptation, checkpoint)
    began, saved_at = _clock(device) - spent, spent
    while spent < budget_s:
        adaptation.step(spent / budget_s)
        spent = _clock(device) - began
        progress("adapting the body", int(spent), int(budget_s))
        if spent - saved_at >= CHECKPOINT_EVERY_S:
            _save(adaptation, checkpoint, spent)
            saved_at = spent
    return spent


def _clock(device: torch.device) -> float:
    """Return a time in seconds. On a CPU, time in which other programs run does not count."""
    if device.type == "cpu":
        return time.process_time() / torch.get_num_threads()
    return time.perf_counter()


def _save(adaptation: Adaptation, path: Path, spent: float) -> None:
    draft = path.with_suffix(".draft")
    safetensors.torch.save_file(adaptation.state_dict(), draft, {"spent_s": repr(spent)})
    draft.replace(path)


def _load(adaptation: Adaptation, path: Path) -> float:
    """Load a checkpoint, if there is one; return how many seconds had been spent by then."""
    if not path.exists():
        return 0.0
    with safe_open(path, framework="pt") as file:
        spent = float(file.metadata()["spent_s"])
        names: list[str] = list(file.keys())
        adaptation.load_state_dict({name: file.get_tensor(name) for name in names})
    return spent
