"""Features are read and written a few images at a time, whatever the size of their file."""

import re
from pathlib import Path

import numpy as np

from stages.core.base.arrays import read_npy, release, write_npy
from stages.core.features import store
from stages.core.features.store import chunks

SHAPE = (256, 64, 512)  # 32 MiB


def mapped_mib() -> float:
    """Pages of files that this process holds, in MiB."""
    found = re.search(r"RssFile:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024


def test_no_more_of_a_mapped_file_is_held_than_a_chunk(tmp_path, monkeypatch):
    tokens = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    write_npy(tmp_path / "layer_00.npy", tokens)
    monkeypatch.setattr(store, "CHUNK_BYTES", 2**21)
    mapped = read_npy(tmp_path / "layer_00.npy")
    before = mapped_mib()
    for place, chunk in enumerate(chunks(mapped)):
        np.testing.assert_array_equal(chunk, tokens[place * len(chunk) : (place + 1) * len(chunk)])
        assert mapped_mib() - before < 8
    assert place == 31


def test_what_was_written_outlives_the_pages(tmp_path):
    mapped = np.lib.format.open_memmap(tmp_path / "layer_00.npy", mode="w+", dtype=np.float32, shape=SHAPE)
    before = mapped_mib()
    for image in range(len(mapped)):
        mapped[image] = image
        release(mapped)
    assert mapped_mib() - before < 8
    np.testing.assert_array_equal(read_npy(tmp_path / "layer_00.npy")[:, 1, 2], np.arange(len(mapped)))


def test_arrays_that_are_not_mapped_are_left_as_they_are():
    whole = np.arange(6.0)
    release(whole)
    release(whole[2:])
    np.testing.assert_array_equal(whole, range(6))
