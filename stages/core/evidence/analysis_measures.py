"""How claims about features are measured: from the analyses of the backbones that they are about."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from stages.core.base.names import TEACHER
from stages.core.evidence.claims import Claim
from stages.core.evidence.measured import Measured
from stages.core.evidence.requirements import images_of_the_figure, unmet_requirement
from stages.core.evidence.results import Results

BACKBONES = "svd_and_pca_dims"  # the family of paper.yaml whose rows name the backbones' timm models
IMAGE_SIZE = 224  # of rows without img_size
LEVEL = "95"  # percent of the energy, in the paper's wording
OTHERWISE = "it could not come out otherwise"  # the reason of a verdict that says nothing
TIE = 1e-9  # of a threshold that is met exactly


def _analysed(
    claim: Claim, results: Results, analysis: str, timm: str, img_size: int
) -> tuple[str, Mapping[str, Any]] | str:
    """The key under which an analysis holds the published model, and its metrics; or the reason why none counts."""
    named = {
        key: measured for key, measured in results.analyses[analysis].items() if timm in (key, measured["architecture"])
    }
    if not named:
        return f"{timm} was not analysed"
    pretrained = [one for one in named.items() if one[1]["weights"] == "pretrained"]
    if not pretrained:
        return f"{timm}: weights are {next(iter(named.values()))['weights']}, the claim is about pretrained ones"
    size = pretrained[0][1]["input_size"][-1]
    if size != img_size:
        return f"{timm} was analysed at {size} pixels, the claim is about {img_size}"
    return unmet_requirement(claim, "of_backbone", pretrained[0][1]) or pretrained[0]


def _dims(claim: Claim, results: Results, analysis: str, timm: str, img_size: int, level: str) -> Measured | str:
    found = _analysed(claim, results, analysis, timm, img_size)
    if isinstance(found, str):
        return found
    backbone, of = found
    key = "dims" if analysis == "sep" else "dims_p99"
    if level not in of[key]:
        return _no_threshold(level)
    return Measured(
        of[key][level],
        f"{results.folder}/{analysis}.json: {backbone}.{key}.{level}",
        f"{backbone}-{'sep' if analysis == 'sep' else 'svd_vs_pca'}",
        another_sample=_another_sample(of, level, images_of_the_figure(claim)),
        caution=f"; weights {_weights(of)}",
    )


def _another_sample(of: Mapping[str, Any], level: str, images: int) -> tuple[float, float] | None:
    """Where the dims of another sample of so many images fall, as an analysis recorded it."""
    ends = of.get("one_image" if images == 1 else "another_sample")
    return None if ends is None else (ends["low"][level], ends["high"][level])


def _weights(of: Mapping[str, Any]) -> str:
    """Where weights come from, in words; a file of the user's is known by its digest alone."""
    digest = f" (SHA-256 {of['sha256'][:12]}…)" if of.get("sha256") else ""
    return f"{of.get('source')}{digest}"


def _no_threshold(level: str) -> str:
    return f"no threshold of {level} %"


def analysis_dims(claim: Claim, results: Results) -> Measured | str:
    """Dims of one backbone: of the analysis that begins the claim's id, at the threshold that ends its path."""
    size = claim.backbone.get("img_size", IMAGE_SIZE)
    return _dims(claim, results, claim.id.split("/", 1)[0], claim.backbone["timm"], size, claim.path[-1])


def headline_dims(claim: Claim, results: Results) -> Measured | str:
    """Dims of the paper's teacher in the per-image basis, at the share of the energy that ends the claim's path."""
    level = str(round(100 * float(claim.path[-1])))
    return _dims(claim, results, "svd", claim.entry["teacher"], IMAGE_SIZE, level)


def _over_backbones(
    claim: Claim, results: Results, analysis: str, value: Callable[[Mapping[str, Any]], float | str], place: str
) -> Measured | str:
    """The value of the teacher's backbone, or the largest of the `backbones` that the claim names."""
    if "backbones" in claim.options:
        rows = claim.options["backbones"].values()
        found = [_analysed(claim, results, analysis, row["timm"], row.get("img_size", IMAGE_SIZE)) for row in rows]
        named = dict(one for one in found if not isinstance(one, str))
        missing = f"{len(named)} of {len(found)} backbones were analysed" if len(named) < len(found) else ""
    else:
        named = {key: of for key, of in results.analyses[analysis].items() if key == TEACHER}
        missing = ""
        for of in named.values():
            reason = unmet_requirement(claim, "of_backbone", of)
            if reason or of["weights"] == "random":
                return reason or "the teacher's weights are random"
    if not named:
        return missing or "the teacher was not analysed"
    values: dict[str, float] = {}
    for backbone, of in named.items():
        one = value(of)
        if isinstance(one, str):
            return one
        values[backbone] = one
    largest = max(values, key=values.__getitem__)
    figure = f"{largest}-{'sep' if analysis == 'sep' else 'svd_vs_pca'}"
    return Measured(values[largest], f"{results.folder}/{analysis}.json: {largest}.{place}", figure, missing=missing)


def rank_share(claim: Claim, results: Results) -> Measured | str:
    """Dims for 95 % of one image's energy, over the smaller of tokens and channels: the most that are possible."""

    def share(of: Mapping[str, Any]) -> float | str:
        most: int = min(of["tokens"], of["channels"])
        return of["dims_p99"][LEVEL] / most if LEVEL in of["dims_p99"] else _no_threshold(LEVEL)

    return _over_backbones(claim, results, "svd", share, f"dims_p99.{LEVEL}")


def shared_over_per_image(claim: Claim, results: Results) -> Measured | str:
    """Dims for 95 % of the energy in the shared basis, over those in the per-image basis, beside the paper's."""

    def ratio(of: Mapping[str, Any]) -> float | str:
        per_image = results.analyses["svd"].get(TEACHER, {"dims_p99": {}})["dims_p99"]
        both = LEVEL in of["dims_p99"] and LEVEL in per_image
        return of["dims_p99"][LEVEL] / per_image[LEVEL] if both else _no_threshold(LEVEL)

    found = _over_backbones(claim, results, "pca", ratio, f"dims_p99.{LEVEL}, over svd.json: dims_p99.{LEVEL}")
    if isinstance(found, str):
        return found
    teacher = claim.paper["headline"]["teacher"]
    row = next(row for row in claim.paper[BACKBONES].values() if row["timm"] == teacher)
    shared, per_image = (row[basis][int(LEVEL)] for basis in ("shared", "per_image"))
    return replace(found, caution=f"; the paper's {teacher}: {shared / per_image:.3g}, {shared} over {per_image}")


def sep_distance(claim: Claim, results: Results) -> Measured | str:
    """Largest |b(α) − white noise's b(α)| over the thresholds α, full spectrum, in units of white noise's deviation.

    White noise's curve is the diagonal, so that its b(α) is α, rounded up to a whole frequency. The share u of a single
    token of it in the first u of the ⌊D/2⌋+1 distinct frequencies has the variance u (1 − u) / (⌊D/2⌋ + 2) at most (a
    beta distribution); the full spectrum, which holds each frequency twice, has half that deviation, the most at α = ¼
    and ¾: ¼ / √(⌊D/2⌋ + 2).
    """

    def distance(of: Mapping[str, Any], bandwidth: str = "bandwidth") -> float:
        channels = of["channels"]
        deviation = 0.25 / math.sqrt(channels // 2 + 2)
        white = {level: math.ceil(int(level) * channels / 100 - TIE) / channels for level in of[bandwidth]}
        return max(abs(reached - white[level]) for level, reached in of[bandwidth].items()) / deviation

    found = _over_backbones(claim, results, "sep", distance, "bandwidth")
    if isinstance(found, str) or found.figure is None:
        return found
    of = results.analyses["sep"][found.figure.removesuffix("-sep")]
    if "permuted_bandwidth" not in of:
        return found
    shuffled = distance(of, "permuted_bandwidth")
    told = shuffled > claim.bounds.get("at_most", 0)  # else it lies there whatever the order of the channels
    beside = f"; {shuffled:.2g} with its channels in random order"
    return replace(found, caution=beside, withheld="" if told else OTHERWISE)
