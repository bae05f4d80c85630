"""Files from others cannot execute anything, nor make the project write elsewhere."""

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from stages.core.base.arrays import read_npy
from stages.core.base.errors import UserError
from stages.core.base.files import read_yaml
from stages.core.config import params
from stages.tools.compose import composed

GIVEN = composed()
ELSEWHERE = ["../x", "/etc/x", "a/b", "..", ".", "", "a\nb", "~", "a b", "$(touch x)", "`touch x`", "a;b", "é"]
NAMES = [  # that become part of a path, of a stage's name or of its command
    ("profile", None),
    ("dataset.train_split", None),
    ("dataset.val_split", None),
    ("teacher.architecture", None),
    ("student.strategies", "key"),
    ("student.strategies.lift.architecture", None),
    ("strategy.names", "item"),
    ("strategy.options", "key"),
    ("objective.names", "item"),
    ("objective.definitions", "key"),
    ("analysis.backbones", "item"),
    ("analysis.layerwise", "item"),
    ("analysis.img_size", "key"),
]


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("kind", ["array of objects", "pickle", "archive"])
def test_an_array_that_would_execute_is_refused(tmp_path, kind):
    array = np.array([Malicious(tmp_path / "executed")], dtype=object)
    with (tmp_path / "dims.npy").open("wb") as file:
        if kind == "array of objects":
            np.save(file, array, allow_pickle=True)
        elif kind == "archive":
            np.savez(file, array)
        else:
            file.write(array.dumps())
    with pytest.raises(UserError, match=r"dims.npy cannot be read as an array \(.*\); delete it") as caught:
        read_npy(tmp_path / "dims.npy")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch {}']",
        "!!python/object/new:os.system ['touch {}']",
        "!!python/object/apply:subprocess.run [['touch', '{}']]",
        "!!python/name:os.system",
        "!!python/module:os",
    ],
)
def test_parameters_that_would_execute_are_refused(tmp_path, tag):
    file = tmp_path / "params.yaml"
    file.write_text(GIVEN + f"\nmore: {tag.format(tmp_path / 'executed')}\n")
    for read in (params.load, read_yaml):
        with pytest.raises(UserError, match="is not valid YAML: could not determine a constructor") as caught:
            read(file)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(("path", "where"), NAMES)
def test_names_lead_nowhere_else(path, where):
    given = yaml.safe_load(GIVEN)
    for name in ELSEWHERE:
        changed = copy.deepcopy(given)
        *outer, last = path.split(".")
        section = changed
        for key in outer:
            section = section[key]
        if where is None:
            section[last] = name
        elif where == "item":
            section[last] = [*section[last], name]
        else:
            section[last] = {**section[last], name: next(iter(section[last].values()), 1)}
        with pytest.raises(UserError, match=r"must be of the characters A-Z|the name "):
            params.check(changed, Path("params.yaml"))
