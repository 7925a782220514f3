"""Measure how framing affects the accuracy on photographs whose object is at the edge.

The photographs are made from the pool: each shows one image at one end of a 4:1 canvas, which is
otherwise filled with a blurred part of another image. A head on the pre-trained body is fitted to
each view.

    python -m scripts.research.bench_framing
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

from backend.base.arrays import Embeddings, Images
from backend.base.command_line import CommandParser, run
from backend.base.settings import load_settings
from backend.images.decode import open_image
from backend.images.framing import View, frame
from backend.images.known_labels import seed_labels
from backend.network.head import fit_head
from backend.network.resnet import build
from scripts.research.experiment import Experiment, open_experiment

OBJECT_PX = 96
ASPECT = 4
BLUR_PX = 12


def main() -> int:
    """Print a row for each view."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--tested", type=int, default=1000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128])
    arguments = parser.parse_args()
    settings = load_settings()
    experiment = open_experiment(settings, seed=settings.seed)
    pool, test = experiment.pool, experiment.pool.test
    labels = seed_labels(pool, arguments.labels, settings.seed)
    classes = np.array([pool.classes.index(label) for label in labels.values()])
    tested = np.sort(np.random.default_rng(0).permutation(len(test.labels))[: arguments.tested])
    learned = make_photographs(pool.images_of(list(labels)), seed=1)
    unseen = make_photographs(test.images[tested], seed=2)
    print(f"{len(learned):,} labels, {len(unseen):,} test images, {experiment.weights.name}")
    print("| framing | image size | test accuracy |\n|---|---|---|")
    for view in (View(64, "middle"), *(View(size) for size in arguments.sizes)):
        embeddings = embed(experiment, learned, view)
        head = fit_head(embeddings, classes, len(pool.classes))
        guesses = head.probs(embed(experiment, unseen, view)).argmax(axis=1)
        accuracy = (guesses == test.labels[tested]).mean()
        print(f"| {view.framing} | {view.image_size} | {100 * accuracy:.1f} % |", flush=True)
    return 0


def make_photographs(images: Images, seed: int) -> list[bytes]:
    """Return JPEG files that show each image at the left or the right end of a wide canvas."""
    rng = np.random.default_rng(seed)
    size = (ASPECT * OBJECT_PX, OBJECT_PX)
    files = []
    for image in images:
        other = images[np.array([rng.integers(len(images))])][0]
        canvas = Image.fromarray(other).resize(size).filter(ImageFilter.GaussianBlur(BLUR_PX))
        left = int(rng.integers(2)) * (size[0] - OBJECT_PX)
        canvas.paste(Image.fromarray(image).resize((OBJECT_PX, OBJECT_PX)), (left, 0))
        file = io.BytesIO()
        canvas.save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def embed(experiment: Experiment, files: Sequence[bytes], view: View) -> Embeddings:
    """Return the pre-trained body's embeddings of photographs in one view."""
    squares = np.empty((len(files), view.side_px, view.side_px, 3), np.uint8)
    for square, content in zip(squares, files, strict=True):
        with open_image(io.BytesIO(content), 1_000_000) as image:
            square[:] = frame(image, view.framing, (view.side_px, view.side_px))
    state = build(len(experiment.pool.classes), experiment.weights.state, seed=0).state_dict()
    return experiment.predict(state, squares, view.image_size).embeddings


if __name__ == "__main__":
    run(main)
