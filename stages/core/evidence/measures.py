"""How each kind of published claim is measured: small functions from a claim and a run's results to a value.

A measure returns a value, with its interval where it has one and the file and key that hold it, or the reason in words
why there is none.
"""

from collections.abc import Callable

from stages.core.base.names import BASELINE
from stages.core.evidence import analysis_measures, training_measures
from stages.core.evidence.claims import Claim
from stages.core.evidence.measured import Measured
from stages.core.evidence.results import Results

UNCOUNTED = "the students' parameters and operations were not counted"


def _cost(claim: Claim, results: Results, key: str) -> Measured | str:
    strategy = claim.path[0]
    if strategy not in results.cost:
        return UNCOUNTED
    return Measured(results.cost[strategy][key], f"{results.folder}/cost.json: {strategy}.{key}")


def _flops_increase(claim: Claim, results: Results) -> Measured | str:
    """FLOPs of a student over the baseline's, in percent of the baseline's."""
    strategy = claim.path[0]
    if not {strategy, BASELINE} <= results.cost.keys():
        return UNCOUNTED
    increase = results.cost[strategy]["flops"] / results.cost[BASELINE]["flops"] - 1
    return Measured(100 * increase, f"{results.folder}/cost.json: {strategy}.flops over {BASELINE}.flops")


def _published(claim: Claim, results: Results) -> Measured:
    file, _, key = claim.options["other"].partition(".")
    place = f"{file}.yaml: {key}" if file == "training_logs" else f"paper.yaml: {claim.options['other']}"
    return Measured(claim.options["value"], f"reports/reference/{place}")


MEASURES: dict[str, Callable[[Claim, Results], Measured | str]] = {
    "analysis_dims": analysis_measures.analysis_dims,
    "headline_dims": analysis_measures.headline_dims,
    "run_top1": training_measures.run_top1,
    "best_epoch_top1": training_measures.best_epoch_top1,
    "epoch_top1": training_measures.epoch_top1,
    "best_top1": training_measures.best_top1,
    "lift_width_top1": training_measures.lift_width_top1,
    "student_parameters": lambda claim, results: _cost(claim, results, "parameters"),
    "student_flops": lambda claim, results: _cost(claim, results, "flops"),
    "flops_increase": _flops_increase,
    "published": _published,
    "rank_share": analysis_measures.rank_share,
    "shared_over_per_image": analysis_measures.shared_over_per_image,
    "sep_distance": analysis_measures.sep_distance,
    "top1_difference": training_measures.top1_difference,
    "wider_than_teacher": training_measures.wider_than_teacher,
}
