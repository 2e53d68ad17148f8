"""How what is typed becomes what is asked."""

from __future__ import annotations

from backend.bulk.spec import read_min_scores
from backend.labelstudio.project_options import ANY_LABEL


def test_least_scores_are_those_of_their_labels() -> None:
    assert read_min_scores("0.3, cat=0.6,a=b=1") == {ANY_LABEL: 0.3, "cat": 0.6, "a=b": 1.0}
    assert read_min_scores("") == {}
