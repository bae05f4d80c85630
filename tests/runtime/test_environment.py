"""Every environment variable is read with its type, or refused in one line with its value and possible ones."""

from pathlib import Path

import pytest

from stages.core.base.errors import UserError
from stages.core.runtime import environment, machine

VARIABLES = {name.upper(): name for name in environment.Environment.model_fields}
COUNTS = ("PROCESSES", "GPUS", "DEVICE_BATCH", "WORKERS")
SWITCHES = ("COMPILE", "FRESH", "ADOPT")


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_values_are_typed_and_read_afresh(monkeypatch):
    found = {
        "DATA_ROOT": ("/data/images", Path("/data/images")),
        "WEIGHTS": ("~/w", Path.home() / "w"),
        "DEVICE": ("cuda:1", "cuda:1"),
        "COMPILE": ("0", False),
        "FRESH": ("1", True),
        "ADOPT": ("true", True),
        "CHECKPOINT_MINUTES": ("0.5", 0.5),
        "TALKING_HEADS": ("fused", "fused"),
        **dict.fromkeys(COUNTS, ("3", 3)),
    }
    assert found.keys() == VARIABLES.keys()
    for name, (text, value) in found.items():
        monkeypatch.setenv(name, text)
        assert getattr(environment.read(), VARIABLES[name]) == value
    monkeypatch.delenv("WORKERS")
    assert environment.read().workers is None


def test_a_relative_folder_is_taken_from_the_project(monkeypatch, tmp_path):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))  # the main repository, in `dvc exp run --temp` too
    for name, field in (("DATA_ROOT", machine.data_root), ("WEIGHTS", machine.weights)):
        monkeypatch.setenv(name, "data/birds")
        assert field() == tmp_path / "data/birds"
        monkeypatch.setenv(name, "/data/birds")
        assert field() == Path("/data/birds")


def test_an_empty_variable_is_an_unset_one(monkeypatch):
    unset = environment.read()
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
    assert environment.read() == unset
    assert machine.checkpoint_s() == 600 and not machine.fresh() and machine.data_root() is None


def test_names_are_in_capital_letters(monkeypatch):
    monkeypatch.setenv("device", "abacus")
    monkeypatch.setenv("workers", "many")
    assert environment.read().device is None and environment.read().workers is None


def test_impossible_values_are_named_with_possible_ones(monkeypatch):
    faults = {
        **dict.fromkeys(COUNTS, ("some", "-1", "1.5", "²")),
        **dict.fromkeys(SWITCHES, ("2", "00", "-1", "x")),
        "DEVICE": ["meta", "mps", "CPU", "cuda:", "cuda:x", "cuda:-1", "0", "cpu:0", "cuda:0\nx"],
        "CHECKPOINT_MINUTES": ["soon", "-1", "nan"],
        "DATA_ROOT": ["~nobody-of-this-name/data"],
        "TALKING_HEADS": ["1", "Fused", "timm"],
    }
    for name, values in faults.items():
        for value in values:
            monkeypatch.setenv(name, value)
            with pytest.raises(UserError) as caught:
                environment.read()
            text = str(caught.value)
            assert text.startswith(f"{name}={value if value.isprintable() else ascii(value)}: ")
            assert "; use " in text and text.endswith(", or unset it") and "\n" not in text
        monkeypatch.delenv(name)
    monkeypatch.setenv("WORKERS", "some")
    monkeypatch.setenv("FRESH", "2")
    with pytest.raises(UserError, match=r"^WORKERS=some: .*; FRESH=2: .*unset it$"):  # both in one line
        machine.data_root()


def test_every_variable_has_a_description_and_examples():
    for field in environment.Environment.model_fields.values():
        assert field.description.endswith(".") and field.examples
