"""The sections of analyses in params.yaml are checked by the analyses, whole or one at a time."""

from pathlib import Path

import pytest
import yaml

from stages.core.analysis import registry
from stages.core.base.errors import UserError
from stages.core.config import params
from stages.tools.compose import composed

GIVEN = yaml.safe_load(composed())


def check(analyses, **sections):
    return params.check(GIVEN | {"analysis": GIVEN["analysis"] | sections}, Path("params.yaml"), analyses).analysis


def test_a_stage_checks_the_section_of_its_own_analysis():
    assert check(registry.sections("sep"), svd={"unknown": 1}).sep.permutations == 1000
    with pytest.raises(UserError, match=r"analysis\.sep\.thresholds: is missing"):
        check(registry.sections("sep"), sep={})
    with pytest.raises(UserError, match=r"analysis\.svd\.unknown: is not a key"):
        check(registry.sections(), svd={"unknown": 1})


def test_a_section_of_no_analysis_is_refused_where_analyses_are_known():
    for analyses in (registry.sections(), registry.sections("svd")):
        with pytest.raises(UserError, match=r"analysis\.spe: is not a key of params\.yaml"):
            check(analyses, spe={})
    assert check(None, spe={})  # by a stage that reads none


def test_faults_of_sections_stand_beside_others_in_one_line():
    content = GIVEN | {
        "seeds": [],
        "analysis": GIVEN["analysis"] | {"rotation": {**GIVEN["analysis"]["rotation"], "k": 1}},
    }
    with pytest.raises(UserError, match=r"seeds: .*; analysis\.rotation\.k: is not a key"):
        params.check(content, Path("params.yaml"), registry.sections())
