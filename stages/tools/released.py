"""The authors' released students: python -m stages.tools.released convert IN OUT, or evaluate FILE|hub ….

`convert` writes a folder that timm opens. `evaluate` measures top-1 on the validation images of DATA_ROOT by the
authors' own evaluation transform (the middle 224 of 256 pixels, bicubic) in float32, of files or of what the authors
keep on the hub, without any training. Where the images are ImageNet's by their names, what Lift and WideLast reach is
recorded, and the audit judges the published accuracies by it. `stages.tools.released_students` says how a file is told.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from stages import messages
from stages.core.base.errors import UserError, run
from stages.core.base.files import atomic_folder, read_json, sha256, write_json
from stages.core.data.batches import evaluation_batches
from stages.core.data.dataset import Source
from stages.core.data.folders import Folders
from stages.core.data.splits import Split, name_digests
from stages.core.data.tars import Tars
from stages.core.evidence.analysis_measures import BACKBONES
from stages.core.evidence.register import read_published
from stages.core.evidence.requirements import STRATEGY_ARGUMENTS, STUDENT_ARGUMENTS
from stages.core.models import folders
from stages.core.models.pretrained import check_imagenet_order
from stages.core.runtime import machine
from stages.core.runtime.distributed import World
from stages.core.train.evaluation import evaluate_together
from stages.cost import STUDENTS
from stages.paths import REFERENCE, RELEASED
from stages.tools.released_students import Student, student

HUB = "hub"  # in the place of a file: what the authors keep there
REPOSITORY, FILES = "Huiyuancs/Encoding_Mismatch", ("*.pth", "*.pt")  # where that is, and which files are students
HUB_TIMEOUT_S = 10
JUDGED = ("lift", "widen")  # the strategies that the authors released students of
BATCH = 64


def convert(checkpoint: Path, folder: Path) -> str:
    """Write one of the authors' students as config.json and model.safetensors.

    Args:
        checkpoint: a file that torch.save wrote.
        folder: a new or empty folder.

    Returns:
        The name of its timm architecture.

    Raises:
        UserError: `folder` is not empty, or the file is not one of the authors' students.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} exists; name a new or an empty folder, or delete it first")
    found = student(checkpoint)
    try:
        with atomic_folder(folder.resolve()) as temporary:
            folders.save(found.model, temporary)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}") from None
    return found.architecture


def from_hub() -> list[tuple[str, Path]]:
    """The authors' checkpoints on the hub, downloaded or from its cache, each after what the record calls it.

    Raises:
        UserError: they are neither in the cache nor within reach.
    """
    address = f"https://huggingface.co/{REPOSITORY}"
    try:
        found = Path(snapshot_download(REPOSITORY, allow_patterns=list(FILES), token=False, etag_timeout=HUB_TIMEOUT_S))
    except Exception as error:  # of whichever HTTP library the hub's client is built on
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{REPOSITORY} cannot be reached ({reason}); download its checkpoints from {address} elsewhere, and name "
            f"the files in the place of {HUB}"
        ) from None
    files = sorted(path for pattern in FILES for path in found.rglob(pattern))
    if not files:
        raise UserError(f"{address} holds no {' or '.join(FILES)}; download its checkpoints, and name the files")
    return [(f"{REPOSITORY}@{found.name}: {path.relative_to(found).as_posix()}", path) for path in files]


def evaluate(
    checkpoints: Sequence[tuple[str, Path]], root: Path | None, split: str
) -> Iterator[tuple[dict[str, Any], str]]:
    """Evaluate students on the validation images, one after the other.

    Args:
        checkpoints: each after what the record calls it.
        root: that holds the images, as class folders in SPLIT or in an archive SPLIT.tar.
        split: of the images.

    Yields:
        What is recorded of a student (strategy, architecture, top1 and top5 in percent, loss, images, precision,
        source, sha256), and the reason why it does not count as the paper's; empty where it does.

    Raises:
        UserError: the images are missing or are not of a student's classes, or a file is not one of the students.
    """
    if root is None:
        raise UserError("DATA_ROOT is not set; set it to the folder that holds ImageNet's validation images")
    source: Source = Tars(root, machine.listings()) if (root / f"{split}.tar").is_file() else Folders(root)
    images = source.scan(split)
    paper = read_published(REFERENCE)
    for name, path in checkpoints:
        found = student(path)
        if len(images.classes) != found.classes:
            raise UserError(f"{images.place} has {len(images.classes)} classes, {path} is of {found.classes}")
        if found.classes == paper["data"]["classes"]:
            check_imagenet_order(images.classes)
        listed = source.open(split, list(images.files), images.classes)
        world = World(0, 1, machine.device())
        model = found.model.to(world.device)
        batches = evaluation_batches(listed, model, batch=BATCH, workers=machine.workers(), world=world)
        messages.begin("released", f"{path.name} is a {found.architecture}, on {len(images.files):,} images")
        (reached,) = evaluate_together([model], messages.bar(batches, path.name, "batch"), world)
        strategy = next((one for one in JUDGED if STUDENTS[one] == found.architecture), "baseline")
        record = {
            "strategy": strategy,
            "architecture": found.architecture,
            **{key: round(reached[key], 4) for key in ("top1", "top5", "loss")},
            "images": len(images.files),
            "precision": "float32",
            "source": name,
            "sha256": sha256(path),
        }
        yield record, why_not(found, strategy, images, paper)


def why_not(found: Student, strategy: str, images: Split, paper: dict[str, Any]) -> str:
    """The reason why a student's accuracy on some images is not the published one's; empty where it is."""
    if strategy not in JUDGED:
        return "it is neither Lift nor WideLast, whose weights the authors released"
    name = paper["headline"]["teacher"]
    teacher = next(row["D"] for row in paper[BACKBONES].values() if row["timm"] == name)
    arguments = STUDENT_ARGUMENTS | STRATEGY_ARGUMENTS[strategy](teacher)
    compared = {key: (value, arguments.get(key)) for key, value in found.arguments.items()}
    other = [f"{key} {value} instead of {wanted}" for key, (value, wanted) in compared.items() if value != wanted]
    if other:
        return f"it is not the paper's {strategy}: {', '.join(other)}"
    names = name_digests(images)
    wanted = (paper["data"]["val_names_sha256"], paper["sample"]["names_sha256"])
    if (names["names_sha256"], names["first_of_class_sha256"]) != wanted:
        return "by their names the images are not ImageNet's 50,000 validation images in their classes"
    return ""


def keep(record: dict[str, Any]) -> None:
    """Record what a student reached, in the place of what another of its strategy did."""
    known = read_json(RELEASED) if RELEASED.is_file() else {}
    write_json(RELEASED, dict(sorted({**known, record["strategy"]: record}.items())))


def evaluate_all(named: Sequence[str], split: str) -> None:
    """Evaluate files, and `hub`; print and record what they reach."""
    checkpoints: list[tuple[str, Path]] = []
    for one in named:
        checkpoints += from_hub() if one == HUB else [("/".join(Path(one).parts[-2:]), Path(one))]
    for record, reason in evaluate(checkpoints, machine.data_root(), split):
        reached = f"top-1 {record['top1']:.2f} % of {record['images']:,} images"
        print(f"{record['source']}: {record['architecture']}, {reached}")
        if reason:
            print(f"not recorded: {reason}")
        else:
            keep(record)
            print(f"recorded in {RELEASED}; `dvc repro audit` judges the published accuracy by it")


def main() -> None:
    """Convert or evaluate the checkpoints that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    command = commands.add_parser("convert", help="write a folder that timm opens")
    command.add_argument("checkpoint", type=Path, metavar="IN", help="the authors' file")
    command.add_argument("folder", type=Path, metavar="OUT", help="a new or an empty folder")
    command = commands.add_parser("evaluate", help="measure top-1 on the validation images in DATA_ROOT")
    command.add_argument("checkpoints", nargs="+", metavar="FILE", help=f"the authors' files, or {HUB}: {REPOSITORY}")
    command.add_argument("--split", default="val", help="the folder or archive of the images (default: val)")
    arguments = parser.parse_args()
    if arguments.command == "evaluate":
        evaluate_all(arguments.checkpoints, arguments.split)
        return
    architecture = convert(arguments.checkpoint, arguments.folder)
    print(f'{architecture}: timm.create_model("local-dir:{arguments.folder}", pretrained=True) opens it')


if __name__ == "__main__":
    run(main)
