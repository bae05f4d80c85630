"""The predicted class of every validation image by every run: one compressed file, without pickle."""

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.core.base.errors import UserError
from stages.core.base.files import atomic, read_json, sha256

FILE = "predictions.npz"


@dataclass(frozen=True)
class Predictions:
    """What the runs of a study answer to its validation images.

    Attributes:
        labels: the true class of each image, [images].
        classes: the predicted class of each image by the name of the run, [images].
    """

    labels: np.ndarray
    classes: Mapping[str, np.ndarray]

    @property
    def correct(self) -> dict[str, np.ndarray]:
        """For each run, which images it classifies correctly, [images] of booleans."""
        return {run: predicted == self.labels for run, predicted in self.classes.items()}

    @property
    def top1(self) -> dict[str, float]:
        """Top-1 of each run, in percent."""
        return {run: 100 * float(correct.mean()) for run, correct in self.correct.items()}


def write(path: Path, predictions: Predictions, manifest: Path) -> None:
    """Write predictions in the smallest integer type that holds every class.

    Args:
        path: of the file.
        predictions: of all runs, on the same images.
        manifest: of the images, whose digest ties the file to them.
    """
    smallest = np.min_scalar_type(len(read_json(manifest)["class_names"]) - 1)
    runs = list(predictions.classes)
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            allow_pickle=False,
            manifest=np.array(sha256(manifest)),
            labels=predictions.labels.astype(smallest),
            runs=np.array(runs),
            predicted=np.stack([predictions.classes[run].astype(smallest) for run in runs]),
        )


def read(path: Path, manifest: Path) -> Predictions:
    """Read what `write` wrote.

    Args:
        path: of the file.
        manifest: of the images of which the predictions have to be.

    Raises:
        UserError: the file is not whole, or its predictions are of other images.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            written_for, labels, runs, predicted = (file[name] for name in ("manifest", "labels", "runs", "predicted"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())
        mend = f"restore it with `git restore {path}`"
        raise UserError(f"{path} cannot be read as predictions ({reason}); {mend}") from None
    if str(written_for) != sha256(manifest):
        raise UserError(f"{path} holds predictions of other images than {manifest} describes; take both from one study")
    images = read_json(manifest)["val"]["images"]
    if labels.shape != (images,) or predicted.shape != (len(runs), images):
        raise UserError(f"{path} does not hold a prediction of every run for each of the {images:,} validation images")
    return Predictions(labels, dict(zip(runs.tolist(), predicted, strict=True)))
