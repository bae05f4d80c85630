"""Resolvers of stages/conf that join the options of a group, so that `strategy=[lift,widen]` trains both.

Hydra merges a list of options into one mapping, in which later keys replace earlier ones. So each option writes what
it selects under a key of its own, and these resolvers join them. Hydra finds this module as a plugin: under
`hydra.plugins_path` of .dvc/config for `dvc exp run`, by import for `python -m stages.tools.compose`.
"""

from collections.abc import Mapping, Sequence

from omegaconf import ListConfig, OmegaConf


def selected(options: Mapping[str, Sequence[str]]) -> ListConfig:
    """Everything that some options select, each name once, in the order in which it first occurs."""
    return ListConfig(list(dict.fromkeys(name for names in options.values() for name in names)))


def label(options: Mapping[str, Sequence[str]]) -> str:
    """The options' own names, joined."""
    return "+".join(options)


OmegaConf.register_new_resolver("selected", selected, replace=True)
OmegaConf.register_new_resolver("label", label, replace=True)
