"""DVC's plots: every template takes its data, and draws by strategy and objective, not one line through all runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc_render.vega import VegaRenderer

from stages.core.evidence.comparison import RUN_COLUMNS
from stages.core.evidence.differences import DIFFERENCE_COLUMNS

COLUMNS = {
    "curves": ("run", "strategy", "objective", "seed", "epoch", "top1"),
    "runs": RUN_COLUMNS,
    "differences": DIFFERENCE_COLUMNS,
}
PLOTS = [
    one
    for plot in yaml.safe_load(Path(__file__).parents[2].joinpath("dvc.yaml").read_text())["plots"]
    for one in plot.items()
]


def fields(node: Any) -> set[str]:
    """Every field that a Vega-Lite specification reads."""
    if isinstance(node, list):
        return set().union(*map(fields, node))
    if not isinstance(node, dict):
        return set()
    own = {node["field"]} if isinstance(node.get("field"), str) else set()
    return own.union(*map(fields, node.values()))


@pytest.mark.parametrize(("name", "plot"), PLOTS, ids=[name for name, _ in PLOTS])
def test_a_template_is_filled_from_the_columns_that_there_are(name: str, plot: dict[str, Any], root: Path) -> None:
    ((file, y),) = plot["y"].items()
    columns = COLUMNS[Path(file).stem]
    assert {plot["x"], y} <= set(columns)
    rows = [dict.fromkeys(columns, "1") | {"rev": "workspace"}]
    given = {key: value for key, value in plot.items() if key != "y"} | {
        "y": y,
        "template_dir": str(root / ".dvc/plots"),
    }
    filled = json.loads(VegaRenderer(rows, name, **given).partial_html())
    values = filled.pop("data")["values"]
    assert len(values) == 1 and "<DVC_METRIC" not in json.dumps(filled)
    made = {step["as"] for step in filled["transform"]}
    read = fields(filled)
    assert read <= {*columns, *made, "rev"}
    assert "rev" in read and ({"strategy", "objective"} <= read or "pair" in read)
