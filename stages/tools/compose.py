"""Compose stages/conf into params.yaml, as `dvc exp run` does."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stages import messages
from stages.core.analysis import registry
from stages.core.base.errors import UserError, run
from stages.core.base.files import write_text
from stages.core.base.names import plural
from stages.core.config import params
from stages.paths import PARAMS
from stages.tools.hydra_plugins import selection  # noqa: F401  registers resolvers of stages/conf

CONF = Path(__file__).resolve().parents[1] / "conf"
SEVERAL = {"strategy", "objective", "experiment"}  # groups of which several options can be chosen
NAMED_FREELY = ("student.strategies", "objective.definitions")  # mappings whose keys are names of the user's own
GROUPS = [folder.name for folder in CONF.iterdir() if folder.is_dir()]


def main() -> None:
    """Write params.yaml for the overrides of the command line, or the default one.

    Raises:
        UserError: the configuration cannot be composed, or `check` would refuse it; params.yaml is left as it is.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "overrides", nargs="*", metavar="GROUP=OPTION|KEY=VALUE", help="of stages/conf, in Hydra's syntax"
    )
    text = composed(*parser.parse_args().overrides)
    settings = params.check(yaml.safe_load(text), PARAMS, registry.sections())
    write_text(PARAMS, text)
    runs = plural(len(settings.grid.listed()), "run")
    messages.end("compose", f"profile {settings.profile}, {runs}; `dvc repro` trains them", PARAMS)


def composed(*overrides: str) -> str:
    """The text of params.yaml for some overrides.

    Raises:
        UserError: an override has an unknown option or key, or is not in Hydra's syntax, or a required value is
            missing; the text names it, and the possible ones.
    """
    config = _config(overrides)
    try:
        missing = OmegaConf.missing_keys(config)
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        raise UserError(f"{' '.join(overrides)}: {_line(error)}") from None
    if missing:
        raise UserError(f"{', '.join(sorted(missing))}: no value yet; add KEY=VALUE for each")
    return OmegaConf.to_yaml(config)


def options(group: str) -> list[str]:
    """The options of a group, those that have a file and those that are definitions, sorted."""
    with initialize_config_dir(str(CONF), version_base=None):
        known = GlobalHydra.instance().config_loader().get_group_options(group)
    return [name for name in known if not name.startswith("_")]


def _config(overrides: Sequence[str]) -> DictConfig:
    for override in overrides:
        group, _, option = override.partition("=")
        if group.partition("@")[0] in set(GROUPS) - SEVERAL and option.startswith("["):
            raise UserError(f"{override}: name one option; only {', '.join(sorted(SEVERAL))} take several")
    try:
        with initialize_config_dir(str(CONF), version_base=None):
            return compose("config", overrides=list(overrides))
    except MissingConfigException as error:
        group, _, option = (error.missing_cfg_file or "").rpartition("/")
        raise UserError(_no_option(group, option)) from None
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # Hydra lets some of Python's through
        for override in overrides:
            group, _, option = override.partition("=")
            if group in GROUPS and option not in options(group):
                raise UserError(_no_option(group, option)) from None
        refused = re.match("Could not override '(.+?)'", str(error))
        others = [override for override in overrides if not refused or override.partition("=")[0] != refused[1]]
        if refused and len(others) < len(overrides):
            raise UserError(_no_key(refused[1], _config(others))) from None
        raise UserError(f"{' '.join(overrides)}: {_line(error)}") from None


def _no_option(group: str, option: str) -> str:
    if group in SEVERAL and "," in option.strip("[]"):
        return f"{group}={option}: several options are written as {group}=[{option}]"
    return f"{group}={option}: {group} has no such option; it has {', '.join(options(group))}"


def _no_key(key: str, config: DictConfig) -> str:
    """The message for a key that is not in `config`: it lists the keys of the innermost existing mapping around it."""
    place = key
    while place:
        place = place.rpartition(".")[0]
        around = OmegaConf.select(config, place) if place else config
        if isinstance(around, DictConfig):
            break
    groups = [] if place else GROUPS
    there = ", ".join(sorted({*map(str, around), *groups}))
    new = key.removeprefix(f"{place}.").partition(".")[0]
    added = f"; a new one is added by +{place}.{new}={{…}}" if place in NAMED_FREELY else ""
    return f"{key}: no such key; {place or 'params.yaml'} has {there}{added}"


def _line(error: Exception) -> str:
    return " ".join(re.split(r"\nSee |\n\s+full_key", str(error))[0].split())


if __name__ == "__main__":
    run(main)
