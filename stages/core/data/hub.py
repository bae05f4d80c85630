"""Hugging Face datasets, by timm's own reader. No code that comes with a dataset is ever run.

`datasets`, which the reader needs, is an optional extra of this package.
"""

import importlib.util
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from stages.core.base.errors import UserError
from stages.core.data.image_list import ImageList
from stages.core.data.layout import UNUSABLE, cannot_read, is_leftover, kind, readable
from stages.core.data.splits import Split, checked, labels

TIMM_COLUMNS = ("image", "label")
NO_INODES = np.empty((0, 2), dtype=np.uint64)  # rows are not files


def missing_extra() -> str | None:
    """Why Hugging Face datasets cannot be read here, or None."""
    if importlib.util.find_spec("datasets"):
        return None
    return "Hugging Face datasets need an extra: pip install 'encoding-mismatch[hf]'"


def _printable(name: str) -> str:
    """A name that can be part of a path and of a line; rows cannot be renamed, so that it is not refused."""
    return UNUSABLE.sub("_", name).replace("/", "_")


@dataclass(frozen=True)
class Hub:
    """A Hugging Face dataset: the folder ROOT/NAME if there is one, else from the Hub, cached in HF_HOME.

    Its images are called CLASS/ROW, or CLASS/ROW/FILE where the rows have file names, and are ordered by
    class, file name and row.

    Attributes:
        name: of the dataset, mostly OWNER/NAME.
        root: the folder with local copies of datasets, or None.
        columns: the names of the columns of images and of labels; None for timm's "image" and "label".
    """

    name: str
    root: Path | None = None
    columns: Sequence[str] | None = None

    def scan(self, split: str) -> Split:
        """List the images of a split, without reading any.

        Raises:
            UserError: the dataset cannot be reached, or has no such split or columns, or has rows without a label.
        """
        reader, place = self._reader(split), f"{self.name}, split {split}"
        from pyarrow import compute  # comes with datasets

        column = np.asarray(self._column(reader, reader.label_key, "numpy"))
        if not np.issubdtype(column.dtype, np.integer) or column.min() < 0:
            raise UserError(f"{place}: not every row has a class label in {reader.label_key}; set dataset.columns")
        row_labels = column.tolist()
        empty = sorted({*reader.class_to_idx.values()}.difference(row_labels))
        if empty:
            raise UserError(f"{place}: no row has the label {empty[0]}; the dataset cannot be used")
        names = {label: f"{label} {_printable(name)}" for name, label in reader.class_to_idx.items()}
        classes = [names.get(label, str(label)) for label in range(max([*names, *row_labels]) + 1)]
        images = self._column(reader, reader.image_key, "arrow")
        paths = compute.struct_field(images, "path").to_pylist()
        lengths = compute.binary_length(compute.struct_field(images, "bytes")).to_pylist()  # of bytes that stay unread
        without = next((row for row, path in enumerate(paths) if path is None and lengths[row] is None), None)
        if without is not None:
            raise UserError(f"{place}: row {without} has no image in {reader.image_key}; set dataset.columns")
        files = [_printable(PurePosixPath(path).name) if path else "" for path in paths]
        order = sorted(range(len(files)), key=lambda row: (row_labels[row], files[row], row))
        listed = [f"{classes[row_labels[row]]}/{row}{'/' if files[row] else ''}{files[row]}" for row in order]
        with readable(place):
            sizes = [lengths[row] if lengths[row] is not None else Path(paths[row]).stat().st_size for row in order]
        left_out = self._left_out(paths)
        return checked(Split(tuple(classes), tuple(listed), tuple(sizes), NO_INODES, place, left_out))

    def open(self, split: str, files: list[str], classes: Sequence[str]) -> ImageList:
        """The listed images of a split, to be read.

        Raises:
            UserError: the dataset cannot be reached, or has fewer rows than are listed.
        """
        reader = self._reader(split)
        rows = [int(file.split("/")[1]) for file in files]
        if max(rows) >= len(reader):
            raise UserError(
                f"{self.name}, split {split} has {len(reader)} rows, fewer than listed; run `dvc repro prepare`"
            )
        return HubImages(Path(self.name, split), files, labels(files, classes), reader, rows)

    def _reader(self, split: str) -> Any:
        missing = missing_extra()
        if missing:
            raise UserError(missing)
        import datasets
        from timm.data.readers.reader_hfds import ReaderHfds

        if not sys.stderr.isatty():
            datasets.disable_progress_bars()
        copy = self.root / self.name if self.root else None
        name = str(copy) if copy and copy.is_dir() else self.name
        image, label = self.columns or TIMM_COLUMNS
        try:
            reader = ReaderHfds(name, split=split, input_key=image, target_key=label)
        except (datasets.exceptions.DatasetsError, OSError, ValueError, KeyError, NotImplementedError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{self.name}, split {split}: {reason}; check dataset.reader, dataset.columns and DATA_ROOT"
            ) from None
        if label not in reader.dataset.column_names:
            held = ", ".join(name for name in reader.dataset.column_names if name != image)
            raise UserError(f"{self.name} has no column {label}, only {held}; set dataset.columns: [IMAGE, LABEL]")
        return reader

    def _left_out(self, paths: Sequence[str | None]) -> Counter[str]:
        """The files of a local copy in class folders that are no rows: `datasets` has a list of suffixes of its own."""
        copy = self.root / self.name if self.root else None
        rows = [Path(path) for path in paths if path and copy and copy in Path(path).parents]
        if not rows or copy is None:
            return Counter()
        read = {row.suffix.lower() for row in rows}
        inside = (path.relative_to(copy) for path in Path(os.path.commonpath(rows)).rglob("*") if path.is_file())
        kept = (path for path in inside if path.stem != "metadata" and not any(map(is_leftover, path.parts)))
        return Counter(kind(path.name) for path in kept if path.suffix.lower() not in read)

    @staticmethod
    def _column(reader: Any, name: str, form: str) -> Any:
        return reader.dataset.select_columns([name]).with_format(form)[:][name]


@dataclass(frozen=True)
class HubImages(ImageList):
    """Images in the rows of a Hugging Face dataset, by timm's reader."""

    reader: Any
    rows: list[int]

    def content(self, index: int) -> bytes:
        """The bytes of an image's file.

        Raises:
            UserError: the row's file cannot be read.
        """
        try:
            with self.reader[self.rows[index]][0] as file:
                return file.read()
        except OSError as error:
            raise cannot_read(self.name(index), error) from None
