"""What others report of the paper's student: sources, and their place beside the paper's own figures."""

import shutil
from pathlib import Path

import pytest
import yaml

from stages.core.base.errors import UserError
from stages.core.evidence.neighbours import read_neighbours
from stages.core.evidence.register import read_published
from stages.core.report.tables import neighbours as neighbour_table


def edit(file: Path, change) -> None:
    content = yaml.safe_load(file.read_text())
    change(content)
    file.write_text(yaml.safe_dump(content))


def test_neighbours_stand_beside_the_papers_own_figures(committed, tmp_path):
    reference = shutil.copytree(committed / "reports/reference", tmp_path / "reference")
    neighbours, published = read_neighbours(reference), read_published(reference)
    rows = neighbour_table.rows(neighbours, published)
    top1 = [row["top-1, %"] for row in rows]
    assert top1 == sorted(top1) and len(rows) == len(neighbours) + 3
    assert all((row["source"] is None) == row["method"].startswith("the paper: ") for row in rows)
    assert "74.86" in neighbour_table.why_higher(published, neighbours)
    edit(reference / "neighbours.yaml", lambda found: found[0].update(source="a page"))
    with pytest.raises(UserError, match="must be an address"):
        read_neighbours(reference)
    edit(reference / "neighbours.yaml", lambda found: found[0].update(run="here"))
    with pytest.raises(UserError, match=r"an entry is not one: .*run"):
        read_neighbours(reference)
