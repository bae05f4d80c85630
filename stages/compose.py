"""Compose stages/conf into params.yaml, as `dvc exp run` does.

python -m stages.compose [GROUP=OPTION | KEY=VALUE …]
"""

import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from stages.core.files import write_text

CONF = Path(__file__).resolve().parent / "conf"


def composed(*overrides: str) -> str:
    """The text of params.yaml for some overrides."""
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose("config", overrides=list(overrides))
    OmegaConf.resolve(config)
    return OmegaConf.to_yaml(config)


if __name__ == "__main__":
    write_text(Path("params.yaml"), composed(*sys.argv[1:]))
