"""Adapt a body to unlabeled images by self-supervision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from backend.base.arrays import Images
from backend.base.errors import AdaptationError
from backend.network import batch_norm, resnet
from backend.network.contrast import Contrast
from backend.network.stepping import warm_up_then_cosine
from backend.network.team import ALONE, Team
from backend.network.unlabeled_views import UnlabeledViews

CHECKED_EVERY = 100  # steps between two looks at the loss, which wait for the device


@dataclass(frozen=True)
class AdaptationRecipe:
    """The hyperparameters of an adaptation."""

    image_size: int = 64
    batch_size: int = 256
    lr: float = 0.06  # peak learning rate
    warm_up: float = 0.1  # share of the whole training
    momentum: float = 0.9
    weight_decay: float = 1e-4
    temperature: float = 0.2
    teacher_momentum: float = 0.99
    queue_size: int = 4096  # images; at most half of all, so that few are their own negatives
    projection_width: int = 128
    min_area: float = 0.25  # of a crop, as a share of the image
    color_jitter: float = 0.4  # largest change in brightness (in SDs), contrast and saturation
    share_unchanged: float = 0.2  # of the images, whose colors stay
    share_grey: float = 0.2
    share_kept: float = 0.5  # of the start, when its weights and the trained ones are averaged
    refitted_on: int = 5_000  # images, at most, that batch normalization is refit to


class Adaptation:
    """Self-supervised training of a body on unlabeled images, one step at a time.

    The same start, images, seed and progress give the same body on the same device, bit for bit,
    even if the training is interrupted and resumed. Raises AdaptationError if there are fewer than
    two images.
    """

    def __init__(
        self,
        images: Images,
        start: Mapping[str, Tensor] | None,
        *,
        recipe: AdaptationRecipe,
        may_flip: bool,
        seed: int,
        device: torch.device | str,
        team: Team = ALONE,
    ) -> None:
        if len(images) < 2:
            raise AdaptationError(
                f"{len(images)} image(s) are too few to adapt the body to: add images to the pool"
            )
        self._recipe, self._n_images, self._start = recipe, len(images), start
        self._views = UnlabeledViews(
            images,
            image_size=recipe.image_size,
            batch_size=recipe.batch_size,
            min_area=recipe.min_area,
            color_jitter=recipe.color_jitter,
            share_unchanged=recipe.share_unchanged,
            share_grey=recipe.share_grey,
            may_flip=may_flip,
            seed=seed,
            device=torch.device(device),
            team=team,
        )
        batch_size = self._views.batch_size
        self._contrast = Contrast(
            start,
            queued_batches=min(recipe.queue_size, len(images) // 2) // batch_size,
            batch_size=batch_size,
            projection_width=recipe.projection_width,
            temperature=recipe.temperature,
            teacher_momentum=recipe.teacher_momentum,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            seed=seed,
            device=torch.device(device),
            team=team,
        )

    @property
    def steps_done(self) -> int:
        """Return the number of steps so far, including those before a resumption."""
        return self._contrast.steps_done

    @property
    def passes_done(self) -> float:
        """Return how often each image has been seen, on average."""
        return self.steps_done * self._views.batch_size / self._n_images

    def step(self, progress: float) -> None:
        """Train on one batch; `progress`, from 0 to 1, sets the learning rate.

        On a GPU, returns as soon as the step is enqueued. Raises TrainingError, some steps later,
        if the loss is not finite.
        """
        self.learn(*self.draw(), progress)
        if self.steps_done % CHECKED_EVERY == 0:
            self._contrast.check()

    def draw(self) -> tuple[Tensor, Tensor]:
        """Return two random views of each image in the next step's batch."""
        return self._views.pair(self.steps_done)

    def learn(self, first: Tensor, second: Tensor, progress: float) -> None:
        """Train on two views of each image in a batch."""
        lr = self._recipe.lr * warm_up_then_cosine(min(progress, 1.0), self._recipe.warm_up)
        with torch.backends.cudnn.flags(enabled=True, deterministic=True):
            self._contrast.learn(first, second, lr)

    def state_dict(self) -> resnet.State:
        """Return everything that resuming needs, on the CPU. Raises TrainingError if it is NaN."""
        self._contrast.check()
        return self._contrast.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Resume from what `state_dict` returned. Raises AdaptationError if it does not fit."""
        self._contrast.load_state_dict(state)

    def finish(self) -> resnet.State:
        """Return the body on the CPU, with batch normalization refit to the plain images.

        Its weights are averages of the start's and the trained ones (Wortsman et al. 2022,
        arXiv:2109.01903), because training without labels also unlearns what the start knows.
        Without a start, they are the trained ones. The training itself is left as it is, so it can
        go on. Raises TrainingError if it diverged.
        """
        self._contrast.check()
        body = self._contrast.body()
        if self._start is not None:
            average_with_start(body, resnet.build(1, self._start, seed=0), self._recipe.share_kept)
        batch_norm.refit(body, self._views.plain(self._recipe.refitted_on))
        return {name: tensor.cpu().contiguous() for name, tensor in body.state_dict().items()}


@torch.no_grad()
def average_with_start(body: nn.Module, start: nn.Module, share: float) -> None:
    """Move the weights of a body towards those of its start, by a share of their distance.

    The statistics of batch normalization stay; they must be refit afterwards.
    """
    weights = dict(start.named_parameters())
    for name, weight in body.named_parameters():
        weight.lerp_(weights[name].to(weight.device), share)
