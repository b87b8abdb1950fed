"""What the package of the release format gives, and when it imports it."""

import subprocess
import sys

import pytest

import consolidation.release as release


def test_every_name_is_there_and_has_a_home() -> None:
    assert sorted(release._HOMES) == sorted(release.__all__)
    for name in release.__all__:
        assert getattr(release, name) is not None


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"'consolidation\.release' has no attribute 'Gone'"):
        release.__getattr__("Gone")


@pytest.mark.parametrize(
    "module", ["consolidation.release.channels", "serve_app.serving.app", "serve_app.cli.main"]
)
def test_what_starts_an_endpoint_and_its_ingresses_imports_no_torch(module: str) -> None:
    code = f"import sys, {module}; print({{'torch', 'transformers'}} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert found.stdout == "set()\n"
