"""Measure what gains accuracy without more labels and nearly without cost.

    python -m scripts.research.trial_free_gains --labels 100 200 500 1000 --seeds 5

Uses POOL and WEIGHTS. Each seed draws random images to label, and others to measure on; all arms of
a table use the same images.

  trainings  full trainings: averaged weights, other batch-norm statistics, mirrored images
  heads      heads on the body in WEIGHTS: mirrored images, class shares, and the unlabeled images
  refits     heads on a body that was trained with the smallest number of labels

The validation and test splits are not used. Rerun to resume.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from backend.base.arrays import Embeddings, Images, Labels, Probs
from backend.base.command_line import CommandParser, run
from backend.base.errors import SettingsError
from backend.base.settings import load_settings
from backend.images.known_labels import true_labels
from backend.measures.evaluation import evaluate
from backend.network import resnet
from backend.network.inference import Outputs
from backend.network.training import Recipe
from scripts.console.options import at_least
from scripts.research.averaged_training import LAST, name_of, refit_statistics, train_averaged
from scripts.research.experiment import Experiment, Rows, open_experiment
from scripts.research.learning_curves import interval, read_rows, write_rows
from scripts.research.pool_aware_heads import (
    LABELS_ALONE,
    NEIGHBORS,
    WITH_POOL,
    Material,
    neighbor_graph,
)
from scripts.research.trials import run_resumable

DECAYS = (0.9, 0.95, 0.98)
N_HELD_OUT = 4000
N_STATISTICS = 2000  # unlabeled images for batch-norm statistics


@dataclass(frozen=True)
class Row:
    """The accuracy of one arm with one seed."""

    table: str
    arm: str
    labels: int
    seed: int
    accuracy: float
    log_loss: float  # without temperature scaling


@dataclass(frozen=True, eq=False)
class Draw:
    """The images of one seed, as positions in a sample of the pool."""

    labeled: Rows  # in labeling order
    held_out: Rows
    unlabeled: Rows

    @classmethod
    def of(cls, n_images: int, n_labeled: int, n_held_out: int, seed: int) -> Draw:
        """Draw disjoint sets; `unlabeled` contains all images that remain."""
        if n_images <= n_labeled + n_held_out:
            raise SettingsError(
                f"{n_images:,} images are too few to label {n_labeled:,} of them and to measure "
                f"on {n_held_out:,} others"
            )
        order = np.random.default_rng(seed).permutation(n_images)
        labeled, held_out, unlabeled = np.split(order, [n_labeled, n_labeled + n_held_out])
        return cls(labeled, held_out, unlabeled)


@dataclass(frozen=True, eq=False)
class Trial:
    """What all seeds have in common: a random sample of the pool with its true labels."""

    experiment: Experiment
    rows: Rows  # of the sample, in the pool
    truth: Labels
    image_size: int
    budgets: Sequence[int]
    out: Path

    def draw(self, seed: int) -> Draw:
        """Draw one seed's images."""
        return Draw.of(len(self.rows), max(self.budgets), N_HELD_OUT, seed)

    def images(self, chosen: Rows) -> Images:
        """Return images of the sample."""
        return self.experiment.pool.images[self.rows[chosen]]

    def predict(self, state: resnet.State, images: Images) -> Outputs:
        """Return a network's outputs."""
        return self.experiment.predict(state, images, self.image_size)


def main() -> int:
    """Measure what is missing, and print the tables."""
    return run_resumable(partial(_measure, _parser().parse_args()))


def _measure(arguments: argparse.Namespace) -> None:
    arguments.out.mkdir(parents=True, exist_ok=True)
    trial = _open(arguments)
    for table in arguments.tables:
        path = arguments.out / f"{table}.csv"
        found = read_rows(path, Row) if path.exists() else []
        done = {(row.labels, row.seed) for row in found}
        n_seeds = arguments.head_seeds if table == "heads" else arguments.seeds
        for seed in range(n_seeds):
            for n_labels in arguments.labels:
                if (n_labels, seed) not in done:
                    found += TABLES[table](trial, n_labels, seed)
                    write_rows(path, found)
        print(f"\n{table}\n\n{summarize(found)}", flush=True)


def _open(arguments: argparse.Namespace) -> Trial:
    settings = load_settings()
    experiment = open_experiment(settings, seed=settings.seed)
    pool = experiment.pool
    order = np.random.default_rng(settings.seed).permutation(len(pool.image_ids))
    rows = np.sort(order[: arguments.sample])
    known = true_labels(pool)
    truth = np.array([pool.classes.index(known[pool.image_ids[row]]) for row in rows])
    title = f"{pool.name}, weights {experiment.weights.name}, {len(rows):,} images"
    claim(arguments.out, title)
    print(title)
    return Trial(experiment, rows, truth, pool.image_size, arguments.labels, arguments.out)


def claim(folder: Path, title: str) -> None:
    """Raise SettingsError if the folder contains results of another pool or other weights."""
    path = folder / "trial.txt"
    if path.exists() and path.read_text() != title:
        raise SettingsError(f"{folder} is of {path.read_text()}: choose another --out")
    path.write_text(title)


def measure_trainings(trial: Trial, n_labels: int, seed: int) -> Iterator[Row]:
    """Train once, and measure all variants of the trained network."""
    draw = trial.draw(seed)
    chosen = draw.labeled[:n_labels]
    pool, device = trial.experiment.pool, trial.experiment.device
    states = train_averaged(
        trial.images(chosen),
        trial.truth[chosen],
        n_classes=len(pool.classes),
        start=trial.experiment.weights.state,
        recipe=Recipe(image_size=trial.image_size),
        may_flip=pool.may_flip,
        seed=seed,
        device=device,
        decays=DECAYS,
    )
    refit = partial(
        refit_statistics, n_classes=len(pool.classes), image_size=trial.image_size, device=device
    )
    unlabeled = trial.images(draw.unlabeled[:N_STATISTICS])
    states |= {
        f"{name}, pool's statistics": refit(states[name], images=unlabeled)
        for name in (LAST, name_of(DECAYS[1]))
    }
    held_out = trial.images(draw.held_out)
    truth = trial.truth[draw.held_out]
    for arm, state in states.items():
        probs = trial.predict(state, held_out).probs
        yield row_of("trainings", arm, n_labels, seed, probs, truth)
        if arm == LAST and pool.may_flip:
            both = np.mean([probs, trial.predict(state, mirror(held_out)).probs], axis=0)
            yield row_of("trainings", f"{arm}, mirrored probabilities", n_labels, seed, both, truth)


def measure_heads(trial: Trial, n_labels: int, seed: int) -> Iterator[Row]:
    """Fit all heads on the body in WEIGHTS to the same labels."""
    draw = trial.draw(seed)
    plain, mirrored = _embed(trial)
    pool = np.concatenate([draw.labeled, draw.unlabeled])
    material = Material(
        labels=trial.truth[draw.labeled[:n_labels]],
        n_classes=len(trial.experiment.pool.classes),
        pool=plain[pool],
        mirrored_pool=mirrored[pool],
        held_out=plain[draw.held_out],
        mirrored_held_out=mirrored[draw.held_out],
        graph=_graph(trial, seed),
        seed=seed,
    )
    for arm, fit in {**LABELS_ALONE, **WITH_POOL}.items():
        yield row_of("heads", arm, n_labels, seed, fit(material), trial.truth[draw.held_out])


def measure_refits(trial: Trial, n_labels: int, seed: int) -> Iterator[Row]:
    """Fit heads on a body that was trained with fewer labels, as between full trainings."""
    draw = trial.draw(seed)
    plain, mirrored = _embed_tuned(trial, seed)
    n_labeled = len(draw.labeled)
    material = Material(
        labels=trial.truth[draw.labeled[:n_labels]],
        n_classes=len(trial.experiment.pool.classes),
        pool=plain[:n_labels],
        mirrored_pool=mirrored[:n_labels],
        held_out=plain[n_labeled:],
        mirrored_held_out=mirrored[n_labeled:],
        graph=None,
        seed=seed,
    )
    for arm, fit in LABELS_ALONE.items():
        yield row_of("refits", arm, n_labels, seed, fit(material), trial.truth[draw.held_out])


TABLES: dict[str, Callable[[Trial, int, int], Iterator[Row]]] = {
    "trainings": measure_trainings,
    "heads": measure_heads,
    "refits": measure_refits,
}


@lru_cache(1)
def _embed_tuned(trial: Trial, seed: int) -> tuple[Embeddings, Embeddings]:
    """Train a body with the fewest labels; embed the labeled and then the held-out images."""
    draw = trial.draw(seed)
    chosen = draw.labeled[: min(trial.budgets)]
    state = trial.experiment.train(
        trial.rows[chosen], trial.truth[chosen], Recipe(image_size=trial.image_size), seed
    )
    images = trial.images(np.concatenate([draw.labeled, draw.held_out]))
    plain, mirrored = (trial.predict(state, seen).embeddings for seen in (images, mirror(images)))
    return plain, mirrored


def _embed(trial: Trial) -> tuple[Embeddings, Embeddings]:
    """Return the embeddings of the sample and of its mirrored images, computed only once."""
    path = trial.out / "embeddings.npz"
    if not path.exists():
        experiment = trial.experiment
        start = experiment.weights.state
        state = resnet.build(len(experiment.pool.classes), start, seed=0).state_dict()
        images = trial.images(np.arange(len(trial.rows)))
        found = [trial.predict(state, seen).embeddings for seen in (images, mirror(images))]
        draft = path.with_suffix(".draft.npz")
        np.savez(draft, plain=found[0], mirrored=found[1])
        draft.replace(path)
    with np.load(path) as kept:
        return kept["plain"], kept["mirrored"]


@lru_cache(1)
def _graph(trial: Trial, seed: int) -> csr_matrix:
    """Return the neighbor graph of one seed's pool, which is the same for any number of labels."""
    draw = trial.draw(seed)
    rows = np.concatenate([draw.labeled, draw.unlabeled])
    return neighbor_graph(_embed(trial)[0][rows], NEIGHBORS)


def mirror(images: Images) -> Images:
    """Swap left and right."""
    return np.ascontiguousarray(images[:][:, :, ::-1])


def row_of(table: str, arm: str, n_labels: int, seed: int, probs: Probs, truth: Labels) -> Row:
    """Return a row with the accuracy of these probabilities."""
    found = evaluate(probs, truth)
    return Row(table, arm, n_labels, seed, found.accuracy, found.log_loss)


def summarize(rows: Sequence[Row]) -> str:
    """Return a Markdown table of accuracies in %, and of differences from the first arm.

    The differences are paired by seed, with 95 % intervals; those that exclude zero are bold.
    """
    table = pd.DataFrame(rows).pivot(index="seed", columns=["arm", "labels"], values="accuracy")
    arms = list(dict.fromkeys(row.arm for row in rows))
    budgets = sorted({row.labels for row in rows})
    lines = [
        "| | " + " | ".join(f"{budget:,} labels" for budget in budgets) + " |",
        "|---" * (len(budgets) + 1) + "|",
    ]
    for arm in arms:
        cells = []
        for budget in budgets:
            own = 100 * table[arm][budget]
            difference, half = interval((own - 100 * table[arms[0]][budget]).dropna().to_numpy())
            gain = f"{difference:+.1f} ± {half:.1f}"
            gain = f"**{gain}**" if abs(difference) > half else gain
            cells.append(f"{own.mean():.1f}" + (f" ({gain})" if arm != arms[0] else ""))
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(description=__doc__)
    add = parser.add_argument
    add("--tables", choices=TABLES, nargs="+", default=list(TABLES))
    add("--labels", type=at_least(20), nargs="+", default=[100, 200, 500, 1000])
    add("--seeds", type=at_least(2), default=5, help="for all but `heads`")
    add("--head-seeds", type=at_least(2), default=10, help="for `heads`")
    add("--sample", type=at_least(1), default=20_000, help="images of the pool to work with")
    add("--out", type=Path, default="var/free-gains", help="the results' folder; rerun to resume")
    return parser


if __name__ == "__main__":
    run(main)
