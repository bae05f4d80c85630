"""The environment variables that describe the machine: their names, types, defaults and meanings.

They are never part of params.yaml and change no result beyond rounding. An empty variable counts as unset.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from stages.core.base.errors import UserError


def _expanded(folder: Path) -> Path:
    """The folder, a relative one taken from the project: `dvc exp run --temp` runs stages in a folder of its own."""
    try:
        return Path(os.environ.get("DVC_ROOT", ""), folder.expanduser())
    except RuntimeError:  # the user id has no entry in the system's list of users, and HOME is unset
        raise ValueError("the home folder is not known") from None


Folder = Annotated[Path, AfterValidator(_expanded)]
Count = Annotated[int, Field(ge=1)]
COUNTS = ["1", "2", "…"]
SWITCH = ["0", "1"]


class Environment(BaseSettings):
    """One field for each variable, which has the field's name in capital letters."""

    model_config = SettingsConfigDict(alias_generator=str.upper, case_sensitive=True, env_ignore_empty=True)

    data_root: Folder | None = Field(
        None, examples=["/data/imagenet"], description="Folder of an external dataset; for hfds/NAME, of local copies."
    )
    weights: Folder | None = Field(
        None, examples=["/data/weights"], description="Folder of pretrained weights, for machines without a network."
    )
    device: str | None = Field(
        None,
        pattern=r"^(cpu|cuda(:[0-9]{1,3})?)$",
        examples=["cpu", "cuda", "cuda:0", "cuda:1", "…"],
        description="Where to compute. Default: every visible CUDA device, else the CPU.",
    )
    processes: Count | None = Field(
        None,
        examples=COUNTS,
        description="Processes that train or extract together. Default: one per visible CUDA device, one on the CPU.",
    )
    gpus: Count | None = Field(
        None,
        examples=COUNTS,
        description="Visible CUDA devices that a run takes for itself, waiting until so many are free. Default: all.",
    )
    device_batch: Count | None = Field(
        None,
        examples=COUNTS,
        description="The most images that a process handles at a time. Default: its whole part of the global batch.",
    )
    compile: bool | None = Field(
        None,
        examples=SWITCH,
        description="Whether to use torch.compile. Default: for long runs on CUDA devices with a C compiler.",
    )
    talking_heads: Literal["fused", "batched"] | None = Field(
        None,
        examples=["fused", "batched"],
        description="How a frozen CaiT mixes its attention heads in half precision on CUDA devices: in one Triton "
        "kernel, or by batched products. Default: batched, as the kernel was not measured yet.",
    )
    workers: int | None = Field(
        None,
        ge=0,
        examples=["0", *COUNTS],
        description="Image-loading processes of each process. Default: its CPU cores but one, at most 32.",
    )
    checkpoint_minutes: float = Field(
        10.0, ge=0, examples=["0", "0.5", "10", "…"], description="Minutes between two checkpoints within an epoch."
    )
    fresh: bool = Field(
        False, examples=SWITCH, description="Whether to ignore the checkpoint of an interrupted run and start over."
    )
    adopt: bool = Field(
        False,
        examples=SWITCH,
        description="Whether a run may resume from a checkpoint of equal parameters and inputs that other code wrote.",
    )


def read() -> Environment:
    """Read the variables as they are now.

    Raises:
        UserError: a variable has an impossible value; the text names it, the value and possible ones.
    """
    try:
        return Environment()
    except ValidationError as invalid:
        raise UserError("; ".join(map(_fault, invalid.errors(include_url=False)))) from None


def _fault(error: Any) -> str:
    name, value = str(error["loc"][0]), str(error["input"])
    examples = Environment.model_fields[name.lower()].examples or []
    reason = error["msg"].removeprefix("Value error, ").partition(",")[0]
    if error["type"] == "string_pattern_mismatch":
        reason = "not one of the possible values"
    shown = value if value.isprintable() else ascii(value)
    return f"{name}={shown}: {reason[0].lower()}{reason[1:]}; use {', '.join(examples)}, or unset it"
