"""Fine-tune the whole network on labeled images, here or on a Ray cluster."""

from __future__ import annotations

from typing import Any

from backend.base.progress import Progress
from backend.network import resnet
from backend.network.training import train
from backend.rounds.cluster import forget_other_runs
from backend.rounds.loop import LabeledImages, Loop
from backend.rounds.start import StartBody


def fine_tune(
    loop: Loop, labels: LabeledImages, start: StartBody, version: str, progress: Progress
) -> resnet.State:
    """Return the weights of a network trained from a start, on the CPU.

    Raises the errors of `backend.network.training.train`, and ScaleError if the cluster cannot be
    used.
    """
    images = loop.pool.images_of(labels.image_ids, progress=progress)
    arguments: dict[str, Any] = {
        "weights": labels.weights,
        "n_classes": len(loop.pool.classes),
        "start": start.tensors,
        "recipe": loop.recipe,
        "may_flip": loop.pool.may_flip,
        "seed": loop.seed,
        "on_step": lambda done, total: progress("training", done, total),
    }
    if loop.settings.scale == "local":
        return train(images, labels.classes, device=loop.device, **arguments)
    from backend.scale.training import train as train_on_cluster  # imports Ray

    place, name = loop.cluster_place, f"{version}-{start.name}-{labels.fingerprint[:16]}"
    forget_other_runs(place, "r", name)
    return train_on_cluster(
        images,
        labels.classes,
        device=loop.settings.device,
        address=loop.settings.ray_address,
        place=place,
        name=name,
        **arguments,
    )
