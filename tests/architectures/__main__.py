"""Writes docs/architectures.md: `make architectures`."""

import warnings
from pathlib import Path

import transformers

from tests.architectures.page import page
from tests.architectures.trying import mixtures, tried

PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"


def main() -> None:
    """Tries each architecture, some 80 in half a minute."""
    transformers.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [tried(model_type) for model_type in mixtures()]
    PAGE.write_text(page(found), encoding="utf-8")
    served = sum(one.reason is None for one in found)
    print(f"{PAGE}: {len(found)} architectures, {served} of them served")


if __name__ == "__main__":
    main()
