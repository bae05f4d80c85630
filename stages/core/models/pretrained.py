"""Teachers and backbones of any timm name: with weights from the user's folder, from the hub, or random.

Weights are searched for in a folder of the user, as NAME.safetensors, NAME.pth, NAME.bin, or a folder NAME/
with one such file, whole or as shards with their index, and perhaps timm's config.json; then in the hub's cache;
then on the hub. Only tensors are loaded: a checkpoint that holds anything else is refused.
"""

import hashlib
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
from safetensors import SafetensorError
from timm.data import ImageNetInfo, resolve_input_data_config
from timm.models import get_deprecated_models, load_state_dict, resolve_model_input_args
from torch import nn

from stages.core.base.errors import UserError
from stages.core.base.files import read_json, sha256
from stages.core.models import students  # noqa: F401  registers the students with timm
from stages.core.models.normalization import check_preprocessing
from stages.core.models.talking_heads import batch_talking_heads

SUFFIXES = (".safetensors", ".pth", ".bin")  # in the order in which they are tried
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"  # ends the name of the file that lists the shards of another
HUB_TIMEOUT_S = 10
# What timm and torch raise for a file that is damaged, unsafe, or belongs to another model.
LOADING_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Provenance:
    """Where a model's weights come from.

    Attributes:
        architecture: the timm name, with its tag if it had one.
        weights: "fit", "finetune", "pretrained" or "random".
        source: the user's file, the hub repository and commit, or the address; None for weights made here. Weights that
            were fitted further ("finetune") started from it.
        sha256: of that file, where it is known; of one in shards, over those of its index and its shards.
    """

    architecture: str
    weights: str
    source: str | None = None
    sha256: str | None = None

    def record(self) -> dict[str, Any]:
        """A mapping for JSON."""
        return asdict(self)


def random(
    name: str, arguments: Mapping[str, Any], *, seed: int, img_size: int | None = None
) -> tuple[nn.Module, Provenance]:
    """A timm model with random weights and the architecture's own data configuration, for dry runs.

    Args:
        name: a timm name, with or without a tag.
        arguments: of the architecture.
        seed: of the weights.
        img_size: of the input; None keeps the model's own.

    Raises:
        UserError: timm has no such model, or it does not take the arguments.
    """
    check_name(name)
    torch.manual_seed(seed)
    try:
        model = _create(name, arguments, img_size, pretrained=False)
    except LOADING_ERRORS as error:
        raise UserError(f"timm cannot make {name} with {_shown(arguments, img_size)}: {_line(error)}") from None
    return model, Provenance(name, "random")


def pretrained(
    name: str, arguments: Mapping[str, Any], *, folder: Path | None, img_size: int | None = None
) -> tuple[nn.Module, Provenance]:
    """A timm model with pretrained weights, its own head, and its own data configuration.

    Args:
        name: a timm name, with or without a tag.
        arguments: of the architecture.
        folder: where the user keeps weights, or None.
        img_size: of the input; None keeps the model's own.

    Raises:
        UserError: timm has no such model; the weights are not available, and the text says which file to download and
            where to put it; or they do not fit the model.
    """
    check_name(name)
    found = _file(name, folder)
    if found is None:
        return _from_address(name, arguments, folder, img_size)
    path, source = found
    config = _users_config(name, folder)
    opened = name if config is None else f"local-dir:{config.parent}"
    shards = _shards(path)
    try:
        given: dict[str, Any] = {"file": str(path)}
        if shards:
            given = {"state_dict": dict(ChainMap(*(load_state_dict(str(shard)) for shard in shards)))}
        overlay = {**given, "source": "", "custom_load": False}
        model = _create(opened, arguments, img_size, pretrained=True, pretrained_cfg_overlay=overlay)
    except LOADING_ERRORS as error:
        shown = _shown(arguments, img_size)
        raise UserError(f"{path} does not hold the weights of {name} with {shown}: {_line(error)}") from None
    return model, Provenance(name, "pretrained", source, _digest(path))


def to_finetune(
    name: str,
    arguments: Mapping[str, Any],
    *,
    classes: int,
    seed: int,
    folder: Path | None,
    image_size: int,
    crop_pct: float,
    interpolation: str,
) -> tuple[nn.Module, Provenance]:
    """A timm model with pretrained weights and a new head, to be fitted.

    timm resamples position and patch embeddings to the image and patch size of `arguments`. Images are normalised as
    the weights expect them, and cropped as the dataset says.

    Args:
        name: a timm name, with or without a tag.
        arguments: of the architecture.
        classes: number of the head's outputs.
        seed: of the head.
        folder: where the user keeps weights, or None.
        image_size, crop_pct, interpolation: of the dataset.

    Raises:
        UserError: as `pretrained`, or the model does not take images of that size.
    """
    model, provenance = pretrained(name, arguments, folder=folder)
    torch.manual_seed(seed)
    model.reset_classifier(classes)  # type: ignore[operator]
    shown = {"input_size": (3, image_size, image_size), "crop_pct": crop_pct, "interpolation": interpolation}
    config: Any = model.pretrained_cfg
    model.pretrained_cfg = model.default_cfg = config | shown | {"num_classes": classes}
    check_preprocessing(model, image_size)
    return model, replace(provenance, weights="finetune")


def located(name: str, *, folder: Path | None) -> Provenance:
    """Where the weights are that `pretrained` loads, without loading them; from the hub they are downloaded.

    Args:
        name: a timm name, with or without a tag.
        folder: where the user keeps weights, or None.

    Raises:
        UserError: timm has no such model, or the weights are not available; as `pretrained` says it.
    """
    check_name(name)
    found = _file(name, folder)
    if found is None:  # timm downloads them when it makes the model
        return Provenance(name, "pretrained", _address(name, folder))
    return Provenance(name, "pretrained", found[1], _digest(found[0]))


def check_classes(name: str, classes: int, *, folder: Path | None) -> None:
    """Refuse a model whose pretrained head does not have `classes` outputs.

    Args:
        name: a timm name, with or without a tag.
        classes: of the dataset.
        folder: where the user keeps weights, or None.

    Raises:
        UserError: the text says how many there are.
    """
    config = _users_config(name, folder)
    outputs = read_json(config).get("num_classes") if config else timm.get_pretrained_cfg(name).num_classes
    if outputs != classes:
        raise UserError(
            f"analysis.classifiers: the head of {name} has {outputs or 'no'} outputs, but dataset.classes is "
            f"{classes}; leave it out"
        )


def check_imagenet_order(class_names: Sequence[str]) -> None:
    """Refuse classes that are not ImageNet-1K's in the order of pretrained heads.

    Each may be named by its WordNet id (n01440764), by its words ("tench, Tinca tinca", or "tench"), after its index
    too ("0 tench", as in datasets of the hub), or by its index with leading zeros; or all by their indices without.

    Args:
        class_names: in the order of the dataset's labels.

    Raises:
        UserError: the text names the first class that differs.
    """
    if list(class_names) == [str(index) for index in range(len(class_names))]:
        return
    info = ImageNetInfo()
    for index, name in enumerate(class_names):
        synset, words = info.index_to_label_name(index), info.index_to_description(index)
        known = {synset, words.casefold(), words.split(",")[0].casefold(), f"{index:03d}"}
        if name.casefold().removeprefix(f"{index} ") not in known:
            raise UserError(
                f"class {index} of the images is {name}, but that of a model pretrained on ImageNet-1K is {synset} "
                f"({words}); name the class folders by their WordNet ids, so that they sort in ImageNet's order"
            )


def check_name(name: str) -> None:
    """Refuse a name that timm does not have.

    Raises:
        UserError: the text names the most similar ones.
    """
    architecture, _, tag = name.partition(".")
    renamed = get_deprecated_models()
    if architecture in renamed:
        now = renamed[architecture]
        raise UserError(
            f"timm has renamed {architecture} to {now}; write that" if now else f"timm has removed {architecture}"
        )
    if not timm.is_model(architecture):
        near = get_close_matches(architecture, timm.list_models(), 3)
        similar = f"; similar ones are {', '.join(near)}" if near else ""
        own = "weights of your own, in the folder WEIGHTS, are named after their architecture"
        raise UserError(f"timm has no model {architecture}{similar}; {own}")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise UserError(f"timm has no weights {tag} for {architecture}; it has {', '.join(tags) or 'none'}")


def _digest(path: Path) -> str:
    """SHA-256 of a file of weights; of an index and its shards that of all their digests."""
    shards = _shards(path)
    return hashlib.sha256("".join(map(sha256, [path, *shards])).encode()).hexdigest() if shards else sha256(path)


def _create(name: str, arguments: Mapping[str, Any], img_size: int | None, **options: Any) -> nn.Module:
    img_size = img_size or arguments.get("img_size")
    size = {} if img_size is None else {"img_size": img_size}
    model = timm.create_model(**resolve_model_input_args(name, size, **arguments), **options)
    batch_talking_heads(model)
    # timm keeps the input size of the checkpoint there; what reads images needs that of this model
    config = {key: value for key, value in model.pretrained_cfg.items() if key != "state_dict"}
    model.pretrained_cfg = model.default_cfg = config | resolve_input_data_config(model, size)
    return model.eval()


def _file(name: str, folder: Path | None) -> tuple[Path, str] | None:
    """The file of a model's weights and where it is from; None for weights that timm downloads from a plain address."""
    own = None if folder is None else _users_file(name, folder)
    if own is not None and folder is not None:
        return own, f"WEIGHTS/{own.relative_to(folder).as_posix()}"
    found = _from_hub(name, folder)
    return None if found is None else (found, f"{timm.get_pretrained_cfg(name).hf_hub_id}@{found.parent.name}")


def _users_config(name: str, folder: Path | None) -> Path | None:
    """timm's config.json beside the user's own weights of a model, where there is one; it must be of that model."""
    own = None if folder is None else _users_file(name, folder)
    if own is None or own.parent == folder or not (own.parent / "config.json").is_file():
        return None
    _check_architecture(name, own.parent / "config.json")
    return own.parent / "config.json"


def _users_file(name: str, folder: Path) -> Path | None:
    if not folder.is_dir():
        raise UserError(f"WEIGHTS={folder} is not a folder; set it to the folder that holds your weights")
    for suffix in SUFFIXES:
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    inside = folder / name
    if not inside.is_dir():
        return None
    for suffix in SUFFIXES:
        files = sorted(inside.glob(f"*{suffix}"))
        usual = [file for file in files if file.name in HUB_FILES]
        indices = sorted(inside.glob(f"*{suffix}{INDEX}"))
        for found in (usual, indices, files):
            if len(found) == 1:
                return found[0]
        if any("-of-" in file.name for file in files):
            raise UserError(f"{inside} holds shards of weights without their index; put *{suffix}{INDEX} there, too")
        if files:
            names = ", ".join(file.name for file in files)
            raise UserError(f"{inside} holds {names}: keep only the one to load")
    raise UserError(f"{inside} holds no weights; put a file {', '.join(f'*{suffix}' for suffix in SUFFIXES)} there")


def _shards(path: Path) -> list[Path]:
    """The files that an index names, in the order of their names; none if `path` is no index.

    Raises:
        UserError: the index is damaged, or a shard is not beside it.
    """
    if not path.name.endswith(INDEX):
        return []
    content = read_json(path)
    named = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(named, dict) or not named or not all(isinstance(name, str) for name in named.values()):
        raise UserError(f"{path} is no index of weights; download it anew")
    shards = [path.parent / Path(name).name for name in sorted({*named.values()})]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise UserError(
            f"{path} names {', '.join(missing[:8])}, not there; download what is missing into {path.parent}"
        )
    return shards


def _check_architecture(name: str, config: Path) -> None:
    found = read_json(config)
    of = found.get("architecture") if isinstance(found, dict) else None
    if of != name.partition(".")[0]:
        raise UserError(f"{config} describes architecture {of}, not {name}; replace the folder by that of {name}")


def _from_hub(name: str, folder: Path | None) -> Path | None:
    """The weights' file in the hub's cache, downloaded if it is not there; None for weights that are not on the hub."""
    config = timm.get_pretrained_cfg(name)
    repository = config.hf_hub_id if config else None
    if not repository:
        return None
    for file in HUB_FILES:
        cached = try_to_load_from_cache(repository, file)
        if isinstance(cached, str):
            return Path(cached)
    try:
        # One request without retries: it ends in seconds where there is no network. Public files need no token.
        info = HfApi(token=False).model_info(repository, timeout=HUB_TIMEOUT_S)
        listed = {sibling.rfilename for sibling in info.siblings or []}
        file = next(file for file in HUB_FILES if file in listed)
        return Path(hf_hub_download(repository, file, token=False))
    except Exception as error:  # of whichever HTTP library the hub's client is built on
        address = f"https://huggingface.co/{repository}/resolve/main/{HUB_FILES[0]}"
        raise _missing(name, folder, address, error) from None


def _from_address(
    name: str, arguments: Mapping[str, Any], folder: Path | None, img_size: int | None
) -> tuple[nn.Module, Provenance]:
    """Weights that timm downloads from a plain address."""
    address = _address(name, folder)
    try:
        model = _create(name, arguments, img_size, pretrained=True)
    except LOADING_ERRORS as error:
        raise _missing(name, folder, address, error) from None
    return model, Provenance(name, "pretrained", address)


def _address(name: str, folder: Path | None) -> str:
    config = timm.get_pretrained_cfg(name)
    address: str | None = config.url if config else None
    if not address:
        raise UserError(f"timm has no weights for {name}; put yours at {_place(name, folder, SUFFIXES[0])}")
    return address


def _missing(name: str, folder: Path | None, address: str, error: Exception) -> UserError:
    suffix = Path(address).suffix
    place = _place(name, folder, suffix if suffix in SUFFIXES else ".pth")
    return UserError(f"no weights for {name} ({_line(error, 120)}); download {address} and put it at {place}")


def _place(name: str, folder: Path | None, suffix: str) -> str:
    at = f"{'WEIGHTS' if folder is None else folder}/{name}{suffix}"
    return at + (", where the environment variable WEIGHTS is a folder of yours" if folder is None else "")


def _shown(arguments: Mapping[str, Any], img_size: int | None) -> str:
    every = {**arguments, **({} if img_size is None else {"img_size": img_size})}
    return ", ".join(f"{key} {value}" for key, value in every.items()) or "its default arguments"


def _line(error: Exception, length: int = 300) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= length else text[:length].rsplit(" ", 1)[0] + " …"
