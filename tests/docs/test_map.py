"""The pages for whoever works on the code name what exists: every room, every path, every test, every word of the glossary."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAP = ROOT / "docs" / "explanation" / "map.md"
GLOSSARY = ROOT / "docs" / "glossary.md"
PAGES = sorted([*ROOT.glob("[CS]*.md"), *(ROOT / "docs" / "explanation").glob("*.md")])
PATHED = re.compile(r"`((?:backend|prompts|train|bench|docs|docker|tests)/[\w./-]*)(?:::(\w+))?`")
TERM = re.compile(r"^\| \*\*([^*]+)\*\*", re.MULTILINE)


def rooms() -> list[str]:
    """Every package of the code, and every module that lies beside them in the backend."""
    packages = [file.parent for package in ("prompts", "backend") for file in (ROOT / package).rglob("__init__.py")]
    flat = [file for file in (ROOT / "backend").glob("*.py") if file.name != "__init__.py"]
    return sorted([f"{folder.relative_to(ROOT)}/" for folder in packages] + [str(file.relative_to(ROOT)) for file in flat])


@pytest.mark.parametrize("room", rooms())
def test_the_map_names_every_room(room: str) -> None:
    assert f"`{room}`" in MAP.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    for path, test in PATHED.findall(page.read_text(encoding="utf-8")):
        if "NAME" in path:
            continue
        assert (ROOT / path).exists(), f"{page.name} names {path}"
        if test:
            assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), f"{page.name} names {path}::{test}"


def terms() -> list[str]:
    return TERM.findall(GLOSSARY.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def code() -> str:
    """All code in lower case, words of one name apart."""
    texts = [file.read_text(encoding="utf-8") for package in ("prompts", "backend") for file in (ROOT / package).rglob("*.py")]
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", "\n".join(texts))
    return re.sub(r"[\s_-]+", " ", apart).lower()


@pytest.mark.parametrize("term", terms())
def test_a_word_of_the_glossary_is_a_word_of_the_code(term: str, code: str) -> None:
    words = re.sub(r"[\s_-]+", " ", term).lower()
    assert re.search(rf"\b{re.escape(words)}", code), f"nothing in the code is called {term!r}"


def test_the_glossary_is_in_the_order_of_the_alphabet_and_says_each_word_once() -> None:
    folded = [term.lower() for term in terms()]
    assert folded == sorted(set(folded))
