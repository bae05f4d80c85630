"""The published curve beside a run's: drawn for comparable runs alone, and the caption says what is drawn."""

import numpy as np
import pandas as pd
import pytest

from stages.core.evidence.training_logs import PublishedCurve
from stages.core.report.figures import published

LOG = PublishedCurve("baseline", "softkd", {1: 10.0, 3: 40.0, 300: 76.95}, 2)


@pytest.fixture
def epochs():
    rows = [
        {"strategy": strategy, "objective": "softkd", "seed": seed, "epoch": epoch, "top1": 10.0 * epoch + 12 + seed}
        for strategy in ("baseline", "lift")
        for seed in (0, 1)
        for epoch in (0, 1, 2)
    ]
    return pd.DataFrame(rows)


def test_lines_and_symbols_are_the_runs_and_the_logs(epochs):
    figure, caption = published.curves(epochs, [LOG])
    lines = figure.axes[0].lines
    drawn = [line.get_xydata() for line in lines if line.get_linestyle() != "None"]
    np.testing.assert_array_equal(drawn, [[[1, 12 + seed], [2, 22 + seed], [3, 32 + seed]] for seed in (0, 1)])
    (symbols,) = (line.get_xydata() for line in lines if line.get_linestyle() == "None")
    np.testing.assert_array_equal(symbols, list(LOG.top1.items()))
    # Means after 1 and 3 epochs are 12.5 and 32.5; the runs end before epoch 300.
    assert "-7.50 points after 3 epochs, the largest difference of 2 compared is -7.50 after 3" in caption
    assert "no published epoch was reached" in published.curves(epochs[epochs["epoch"] == 1], [LOG])[1]
