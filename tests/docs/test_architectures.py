"""The page about architectures says what `make architectures` finds."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.architectures.page import page
from tests.architectures.trying import mixtures, tried
from tests.support.served import SERVED, TRANSFORMERS

PAGE = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text(encoding="utf-8")
TRIED = ("gemma4", "jetmoe", "mixtral")
"""Two that are served, of which one is a wrapper, and one that is not."""


@pytest.mark.skipif(not version("transformers").startswith(f"{TRANSFORMERS}."), reason="another")
@pytest.mark.parametrize("model_type", TRIED)
def test_an_architecture_is_as_the_page_says(model_type: str) -> None:
    (row,) = [line for line in page([tried(model_type)]).splitlines() if f"`{model_type}`" in line]
    assert row in PAGE.splitlines()


def test_the_page_has_every_mixture_and_each_that_is_served_is_tested() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|", PAGE, re.MULTILINE)
    if version("transformers").startswith(f"{TRANSFORMERS}."):
        assert sorted(rows) == list(mixtures())
    served = re.findall(r"^\| `([\w-]+)` \| `\w+` \|$", PAGE, re.MULTILINE)
    assert served == sorted(SERVED)
    assert f"transformers {TRANSFORMERS}" in PAGE
