from __future__ import annotations

import pytest

from backend.values.settings import Settings
from docs.generate import PAGES, REFERENCE


@pytest.mark.parametrize("page", PAGES)
def test_the_reference_pages_agree_with_the_code(page: str) -> None:
    assert (REFERENCE / page).read_text(encoding="utf-8") == PAGES[page](), "run 'make docs'"


def test_every_setting_is_explained() -> None:
    assert all(field.description for field in Settings.model_fields.values())
