"""Options and resolvers of stages/conf: every strategy and objective by its name, joined; runs listed and planned.

A strategy that all scales have, and a defined objective, is an option of its group without a file of its own: Hydra's
ConfigStore holds it, beside the files. Hydra merges a list of options into one mapping, in which later keys replace
earlier ones. So each option writes what it selects under a key of its own, and the resolvers join them, so that
`strategy=[lift,widen]` trains both. Hydra finds this module as a plugin: under `hydra.plugins_path` of .dvc/config for
`dvc exp run`, by import for `python -m stages.tools.compose`.
"""

import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, ListConfig, OmegaConf

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the stages beside this file, whichever are installed
from stages.plan import planned

CONF = Path(__file__).resolve().parents[2] / "conf"
DEFINITIONS = {  # of the options that select themselves: file and key, by group
    "strategy": ("student/_shared.yaml", "strategies"),
    "objective": ("objective/_definitions.yaml", "definitions"),
}


def selected(options: Mapping[str, Sequence[str]]) -> ListConfig:
    """Everything that some options select, each name once, in the order in which it first occurs."""
    return ListConfig(list(dict.fromkeys(name for names in options.values() for name in names)))


def label(options: Mapping[str, Sequence[str]]) -> str:
    """The options' own names, joined."""
    return "+".join(options)


def _listed(values: Any) -> Sequence[Any]:
    """Values as they are, or one value that should have been a list: the check of params.yaml says so better."""
    return values if isinstance(values, ListConfig) else [values]


def runs(blocks: Sequence[Mapping[str, Any]], strategies: Sequence[str], objectives: Sequence[str]) -> DictConfig:
    """The names of a grid's runs by seed: of each block every strategy with every objective and every seed.

    They are in the order of `strategies`, then of `objectives`; a block's strategies and objectives that are not among
    these are left out.
    """
    keys = ("strategies", "objectives", "seeds")
    chosen = {run for block in blocks for run in product(*(_listed(block.get(key, [])) for key in keys))}
    seeds = sorted({seed for *_, seed in chosen})
    named = {
        str(seed): [
            f"{strategy}-{objective}-{seed}"
            for strategy, objective in product(strategies, objectives)
            if (strategy, objective, seed) in chosen
        ]
        for seed in seeds
    }
    return DictConfig({seed: names for seed, names in named.items() if names})


def weighted(definition: Mapping[str, Any], weight: float) -> DictConfig:
    """An objective's definition with another weight of its feature loss."""
    return DictConfig(dict(definition) | {"feature_weight": float(weight)})


def plan(analysis: Mapping[str, Any], runs: Mapping[str, Any]) -> DictConfig:
    """The stages of a run; see `stages.plan`."""
    backbones, layerwise, classifiers = ([*_listed(analysis[key])] for key in ("backbones", "layerwise", "classifiers"))
    return DictConfig(planned(backbones, layerwise, classifiers, list(runs)))


for group, (file, key) in DEFINITIONS.items():
    for name in OmegaConf.select(OmegaConf.load(CONF / file), key):
        option = {"defaults": ["_joined", "_self_"], "options": {name: [name]}}
        ConfigStore.instance().store(name=name, node=option, group=group, provider="stages/conf")
OmegaConf.register_new_resolver("plan", plan, replace=True)
OmegaConf.register_new_resolver("selected", selected, replace=True)
OmegaConf.register_new_resolver("runs", runs, replace=True)
OmegaConf.register_new_resolver("weighted", weighted, replace=True)
OmegaConf.register_new_resolver("label", label, replace=True)
