"""The small family that is served while faults happen, its releases, and two tenants' keys."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

from consolidation.pipeline import Recipe, consolidate
from consolidation.release import Alias, Manifest
from consolidation.run.executor import LocalExecutor
from consolidation.sources.local_sources import local_models
from serve_app.tenants.key_changes import Wanted, with_new_key
from serve_app.tenants.keys_file import KeyScope, KeysFile
from tests.chaos.composing import composed
from tests.chaos.references import References
from tests.chaos.slow_files import Control
from tests.serving.family import FAMILY, TinyFamily
from tests.support.checkpoints import write_checkpoint

MODELS = ("a", "b", "c", "d")
VERSIONS = "01"
"""Checkpoints of each model: `a0`, `a1`, `b0`, …"""
FIRST = "0000"
ALIAS, ITS_MODEL = "support", "a"
"""A name that tenants use for a model."""
NAMES = (*MODELS, ALIAS)
"""All that may be asked for."""
CHANNEL = "stable"
TENANTS = ("acme", "zen")
OPERATOR = "operator"


class Family:
    """Checkpoints and a registry under `root`, the references of every release, and a keys file.

    Consolidation makes one release of all checkpoints; those that are served are composed of it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tiny = TinyFamily(root)
        self.registry = self.tiny.registry
        self.references = References(root)
        names = [model + version for version in VERSIONS for model in MODELS]
        self.tiny.make_models(names)
        for name in names:
            self.references.compute(name)
        self.text = root / "text.txt"
        self.text.write_text("a few words that models are compared on. " * 50, encoding="utf-8")
        self.whole = self._consolidated(names)
        self.control = Control(root)
        self.keys_path = root / "keys.yaml"
        self.keys = self._write_keys()
        self.first = self.publish(FIRST)
        self.move(self.first)
        self.registry.change_aliases(CHANNEL, lambda _: {ALIAS: Alias(model=ITS_MODEL)})
        self._unused = _versions()

    def manifest(self, versions: str) -> Manifest:
        """Each model, in order, in this version."""
        return composed(self.whole, _checkpoints(versions))

    def publish(self, versions: str) -> str:
        return self.publish_as(self.manifest(versions), _checkpoints(versions))

    def publish_as(self, manifest: Manifest, checkpoints: Mapping[str, str]) -> str:
        """checkpoints: by model, those whose answers the release is to give."""
        release = self.registry.publish(manifest)
        self.references.add(release, {**checkpoints, ALIAS: checkpoints[ITS_MODEL]})
        return release

    def fresh(self) -> str:
        """A release that no endpoint has seen since the last fifteen."""
        return self.publish(next(self._unused))

    def move(self, release: str) -> None:
        self.registry.move_channel(CHANNEL, release)

    @property
    def folder(self) -> Path:
        """The registry's, of this family, on this machine."""
        return Path(self.registry.storage_url)

    def make(self, name: str, seed: int) -> Path:
        """One checkpoint more, unless it is there."""
        place = self.root / name
        return place if place.exists() else write_checkpoint(place, "mixtral", seed)

    def _consolidated(self, names: Sequence[str]) -> Manifest:
        models = local_models({name: self.root / name for name in names})
        texts = ((None, self.text),)
        recipe = Recipe(FAMILY, self.tiny.url, models, channel=None, calibration=texts)
        found = consolidate(recipe, executor=LocalExecutor())
        assert found.manifest is not None
        return found.manifest

    def _write_keys(self) -> dict[str, str]:
        file, keys = KeysFile(), {}
        for tenant in TENANTS:
            file, keys[tenant] = with_new_key(file, Wanted(tenant))
        scopes = frozenset({KeyScope.METRICS, KeyScope.ADMIN})
        file, keys[OPERATOR] = with_new_key(file, Wanted(OPERATOR, scopes=scopes))
        self.keys_path.write_text(file.text(), encoding="utf-8")
        return keys


def _checkpoints(versions: str) -> dict[str, str]:
    return {model: model + version for model, version in zip(MODELS, versions, strict=True)}


def _versions() -> Iterator[str]:
    """All but the first, over and over."""
    while True:
        for found in product(VERSIONS, repeat=len(MODELS)):
            if "".join(found) != FIRST:
                yield "".join(found)
