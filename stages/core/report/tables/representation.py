"""Tables of the backbones' features, measured and published."""

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from stages.core.analysis.dims import BASES


def with_published(rows: pd.DataFrame, paper: Mapping[str, Any]) -> pd.DataFrame:
    """backbones.csv with the paper's name and training of each backbone, and its published numbers.

    A row has published numbers where timm name, width and input size are the paper's; else those cells are empty and
    the name is the one in params.

    Args:
        rows: backbones.csv.
        paper: paper.yaml.

    Returns:
        The rows with name, training, and published_COLUMN for each measured COLUMN of dims.
    """
    backbones, sep = paper["svd_and_pca_dims"], paper["sep_dims"]
    names, training, published = [], [], []
    for row in rows.itertuples():
        name = next((name for name, of in backbones.items() if _is_model(of, row)), None)
        of = backbones.get(name, {})
        names.append(str(name or row.backbone))
        training.append(of.get("training"))
        figures = {**{basis: of.get(basis, {}) for basis in BASES}, "sep": sep.get(name, {})}
        pairs = {column: column.rsplit("_", 1) for column in _dims_columns(rows)}
        published.append({column: figures[kind].get(int(level)) for column, (kind, level) in pairs.items()})
    beside = pd.DataFrame(published, index=rows.index).add_prefix("published_")
    return rows.join(beside).assign(name=names, training=pd.Series(training, index=rows.index, dtype=object))


def backbones(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `with_published` in the layout of the paper's tables: measured (published)."""
    keys = ["name", "timm", "training", "weights", "img_size", "tokens", "D"]
    table = rows[keys].rename(columns={"name": "backbone", "img_size": "input"})
    heads = {"per_image": "per-image basis,", "shared": "shared basis,", "sep": "SEP"}
    for column in _dims_columns(rows):
        kind, level = column.rsplit("_", 1)
        pairs = zip(rows[column], rows[f"published_{column}"], strict=True)
        table[f"{heads[kind]} {level} %"] = [
            f"{measured:.4g}" + ("" if pd.isna(of) else f" ({of:.4g})") for measured, of in pairs
        ]
    return table


def sep_over_images(sep: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Mean bandwidths over images with their intervals, one row per spectrum and threshold.

    Args:
        sep: one backbone of sep.json.
    """
    rows = []
    for spectrum, of in (("full", sep), ("folded", sep["folded"])):
        for level in map(str, sep["thresholds"]):
            row = {"spectrum": spectrum, "share of the energy, %": int(level)}
            for kind, values in of["bandwidth_over_images"].items():
                mean, low, high = (values[name][level] for name in ("mean", "low", "high"))
                sign = "+" if kind == "difference" else ""
                row[kind] = f"{mean:{sign}.4f} ({low:{sign}.4f} to {high:{sign}.4f})"
            rows.append(row)
    return rows


def permutations(sep: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The release's permutation statistic of every backbone, at the two largest thresholds that all share.

    Args:
        sep: sep.json.
    """
    levels = sorted(set.intersection(*(set(of["thresholds"]) for of in sep.values())))[-2:]
    rows = []
    for backbone, of in sep.items():
        found = of["permutation"]
        row = {
            "backbone": backbone,
            "D": of["channels"],
            "L1 distance": f"{found['distance_mean']:.4f} ± {found['distance_std']:.4f}",
        }
        for level in map(str, levels):
            shift, low, high = (found[key][level] for key in ("shift", "shift_low", "shift_high"))
            name = f"b({int(level) / 100:g})"
            row[f"{name}, observed"], row[f"{name}, permuted"] = found["observed"][level], found["permuted"][level]
            row[f"{name}, difference"] = f"{shift:+.4f} ({low:+.4f} to {high:+.4f})"
        rows.append(row | {"p of the mean curve": of["p_value"]})
    return rows


def _dims_columns(rows: pd.DataFrame) -> list[str]:
    return [column for column in rows.columns if re.fullmatch(r"(per_image|shared|sep)_\d+", column)]


def _is_model(of: Mapping[str, Any], row: Any) -> bool:
    return (of["timm"], of["D"], of.get("img_size", 224)) == (row.timm, row.D, row.img_size)


def dims_needed(of: Mapping[str, Any]) -> pd.DataFrame:
    """Dims that keep a share of a model's top-1, beside dims that hold that share of the same tokens' energy.

    Args:
        of: the model's part of truncation.json; it was measured.
    """
    shares = [str(share) for share in of["shares"]]
    columns = {"share, %": shares}
    for basis in of["bases"]:
        columns[f"top-1, {basis.replace('_', '-')} basis"] = [
            _dims(of["bases"][basis]["dims"][share]) for share in shares
        ]
        columns[f"energy, {basis.replace('_', '-')} basis"] = [_dims(of["energy"][basis][share]) for share in shares]
    return pd.DataFrame(columns)


def _dims(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"
