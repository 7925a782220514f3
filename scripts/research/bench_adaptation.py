"""Measure what adapting the body costs on top of bare training steps on ready batches.

    python -m scripts.research.bench_adaptation --steps 20

Uses random images of the size of CIFAR-10's. The memory on top is what a process needs to adapt
the body to them, beside the images themselves: the networks, a checkpoint, and the refit of batch
normalization. A GPU also keeps the images in its memory. Set OMP_NUM_THREADS=1 to measure one
core.
"""

from __future__ import annotations

import resource

import numpy as np
import psutil
import torch

from backend.base.command_line import CommandParser, run
from backend.network import resnet
from backend.network.adaptation import Adaptation, AdaptationRecipe
from scripts.research.bench import PairedTimes
from scripts.research.measurement import MB, announce

SIDE_PX = 32
PROGRESS = 0.5  # the learning rate does not change the speed
KB = 1024


def main() -> int:
    """Print the speed as a share of bare steps, and the memory on top."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--image-size", type=int, default=AdaptationRecipe().image_size)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = (arguments.images, SIDE_PX, SIDE_PX, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    resnet.build(1, None, seed=0)  # imports torchvision, which every training needs
    before_mb = psutil.Process().memory_info().rss / MB
    recipe = AdaptationRecipe(image_size=arguments.image_size)
    adaptation = Adaptation(images, None, recipe=recipe, may_flip=True, seed=0, device=device)
    announce(f"measuring {arguments.steps} pairs of steps on {device}")
    ready = adaptation.draw()
    times = PairedTimes(device, lambda: adaptation.learn(*ready, PROGRESS))
    for step in range(arguments.steps):
        adaptation.step(PROGRESS)
        times(step + 1, arguments.steps)
    announce("measuring the memory of a checkpoint and of the refit")
    adaptation.state_dict()
    adaptation.finish()
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KB / MB
    print(f"adapting, images/s over a bare step on ready batches: {times.ratio():.3f}")
    print(f"memory on top of {arguments.images:,} images: {peak_mb - before_mb:,.0f} MB")
    if device == "cuda":
        print(f"memory of the GPU: {torch.cuda.max_memory_allocated() / MB:,.0f} MB")
    return 0


if __name__ == "__main__":
    run(main)
