"""Adapters of one base are consolidated: the base's experts once, and what each adapter adds."""

from pathlib import Path
from typing import Any

import pytest
import torch

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.evaluation.verify import verify
from consolidation.pipeline import Consolidated, Recipe
from consolidation.release import Registry, ReleaseReader
from consolidation.sources.model_source import Kind, Location, ModelSource
from representation.formats import DENSE
from serve_app.cli.outcome import print_release
from tests.consolidation.running import Paths, consolidated, manifest_of
from tests.support.adapters import write_listed
from tests.support.checkpoints import write_checkpoint

SIZES: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 1}
EXPERTS = r".*experts\.\d+\.w[123]\.weight"
NUM_EXPERTS = 4


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A base; adapters of all matrices, of down projections alone, and one that hardly shows."""
    root = tmp_path_factory.mktemp("adapters")
    base = write_checkpoint(root / "base", "mixtral", dtype=torch.bfloat16, **SIZES)
    bf16: dict[str, Any] = {"dtype": torch.bfloat16, "size": 0.02}
    listed = {
        "all": (EXPERTS + r"|.*(q_proj|gate)\.weight", bf16),
        "down": (
            r".*experts\.\d+\.w2\.weight",
            {"ranks": {"w2": 1}, "rank_pattern": {"w2": 1}, "size": 0.05, "lora_alpha": 7},
        ),
        "light": (r".*experts\.1\.w[13]\.weight", {**bf16, "size": 0.002}),
    }
    for seed, (name, (pattern, fields)) in enumerate(listed.items()):
        write_listed(base, root / name, pattern, seed=seed, **fields)
    return {"base": base, **{name: root / name for name in listed}}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "short.txt"
    lines = (f"Line {n} says that {n} times {n} makes {n * n}." for n in range(20))
    path.write_text("\n\n".join(lines))
    return path


def sources(adapters: Paths, *names: str) -> dict[str, ModelSource]:
    base = str(adapters["base"])
    found = {}
    for name in names:
        adapter = Location(Kind.DIRECTORY, str(adapters[name])) if name != "base" else None
        found[name] = ModelSource(Kind.DIRECTORY, base, adapter=adapter)
    return found


def run(
    registry: Path, adapters: Paths, *names: str, budget: float | None = None, **fields: Any
) -> Consolidated:
    recipe = Recipe("fam", str(registry), sources(adapters, *names), expert_budget=budget, **fields)
    return consolidated(recipe)


def held(outcome: Consolidated, model: str) -> list[list[str]]:
    """Formats of the residuals of each expert of a model, and their matrices."""
    manifest = manifest_of(outcome)
    return [
        [
            f"{layer.residuals[i].format}@{','.join(layer.residuals[i].matrices)}"
            for i in manifest.models[model].residuals(number, index)
        ]
        for number, layer in enumerate(manifest.layers)
        for index in range(NUM_EXPERTS)
    ]


@pytest.fixture(scope="module")
def lossless(
    adapters: Paths, text: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Consolidated]:
    """A registry, and what was made without a budget."""
    root = tmp_path_factory.mktemp("lossless")
    names = ("base", "all", "down", "light")
    return root, run(root, adapters, *names, calibration=((None, text),))


def test_without_a_budget_the_pool_is_the_base_and_the_factors_of_each_adapter(
    adapters: Paths, lossless: tuple[Path, Consolidated]
) -> None:
    root, outcome = lossless
    manifest = manifest_of(outcome)
    source = open_checkpoint(adapters["base"]).experts[0]
    whole = DENSE.file_bytes(source.shape, torch.bfloat16, residual=False)
    for layer in manifest.layers:
        assert [(part.format, part.bytes) for part in layer.slots] == [("dense", whole)] * 4
    assert held(outcome, "all") == [["rank-8@gate_up_proj", "rank-4@down_proj"]] * 4
    assert held(outcome, "down") == [["rank-1@down_proj"]] * 4
    assert held(outcome, "light") == [[], ["rank-8@gate_up_proj"], [], []]
    assert held(outcome, "base") == [[]] * 4
    quality = manifest.quality
    assert quality["base"].kl == quality["all"].kl == quality["light"].kl == 0
    assert quality["down"].kl < 1e-6  # its factors are float32, and are rounded
    assert verify(Registry(str(root), "fam"), manifest.id) == []


def test_an_expert_comes_back_as_its_base_with_what_the_adapter_adds(
    adapters: Paths, lossless: tuple[Path, Consolidated]
) -> None:
    root, outcome = lossless
    reader = ReleaseReader(Registry(str(root), "fam"), manifest_of(outcome).id)

    for name in ("all", "light"):
        for layer, source in enumerate(open_checkpoint(adapters["base"], adapters[name]).experts):
            for index in range(NUM_EXPERTS):
                found = reader.expert(name, layer, index)
                for parameter, tensor in source.read_wide(index).items():
                    torch.testing.assert_close(
                        found[parameter], tensor.float(), rtol=1e-6, atol=1e-7
                    )


def test_the_manifest_says_which_adapter_was_put_on_which_base(
    adapters: Paths, lossless: tuple[Path, Consolidated]
) -> None:
    manifest = manifest_of(lossless[1])
    sources = {name: model.source for name, model in manifest.models.items()}
    opened = open_checkpoint(adapters["base"], adapters["down"]).adapter
    assert opened is not None
    assert sources["down"].name == "base+down"
    assert sources["down"].adapter == opened.digest()
    assert sources["base"].adapter is None
    assert (sources["base"].merged, sources["down"].merged) == (0, 0)
    assert sources["all"].merged == 2, "a query projection and a router"
    assert sources["base"].digest != sources["down"].digest
    assert manifest.provenance["base"] == "base"


def test_the_table_says_what_became_of_each_adapter(
    lossless: tuple[Path, Consolidated], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = manifest_of(lossless[1])
    print_release(manifest.id, "stable", manifest, None)
    last = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert last["all"].rstrip().endswith("factors, 2 tensors merged")
    assert last["down"].rstrip().endswith("  factors")
    assert last["base"].rstrip().endswith("–")


def test_a_budget_just_above_one_model_holds_adapters_without_loss(
    adapters: Paths, text: Path, tmp_path: Path
) -> None:
    names = ("base", "down", "light")
    outcome = run(tmp_path, adapters, *names, budget=1.04, calibration=((None, text),))

    manifest = manifest_of(outcome)
    assert manifest.expert_bytes_after < 1.04 * manifest.expert_bytes_one_model
    assert outcome.plan.error == 0
    assert held(outcome, "down") == [["rank-1@down_proj"]] * 4
    assert held(outcome, "light")[1] == ["rank-8@gate_up_proj"]
    assert manifest.quality["base"].kl == 0


def test_below_the_bytes_of_the_base_the_factors_stand_on_fewer_bits(
    adapters: Paths, text: Path, tmp_path: Path
) -> None:
    outcome = run(tmp_path, adapters, "all", "down", budget=0.7, calibration=((None, text),))

    manifest = manifest_of(outcome)
    slots = {part.format for layer in manifest.layers for part in layer.slots}
    ranks = {part.format for layer in manifest.layers for part in layer.residuals}
    assert slots != {"dense"}
    assert any(label.startswith("rank-") for label in ranks)
    for quality in (manifest.quality["all"], manifest.quality["down"]):
        assert quality.retained is not None
        assert quality.retained > 0.9


def test_an_exact_adapter_is_its_base_as_it_is_with_its_factors(
    adapters: Paths, text: Path, tmp_path: Path
) -> None:
    wish: dict[str, Any] = {"exact": frozenset({"down"}), "calibration": ((None, text),)}
    outcome = run(tmp_path, adapters, "all", "down", budget=1.02, **wish)

    assert held(outcome, "down") == [["rank-1@down_proj"]] * 4
    assert held(outcome, "all") != [["rank-8@gate_up_proj", "rank-4@down_proj"]] * 4
    slots = [part.format for layer in manifest_of(outcome).layers for part in layer.slots]
    assert set(slots) == {"dense"}


def test_an_adapter_is_added_to_a_release_of_its_base(
    adapters: Paths, text: Path, tmp_path: Path
) -> None:
    calibration = ((None, text),)
    first = run(tmp_path, adapters, "base", calibration=calibration)
    second = run(tmp_path, adapters, "all", extend=first.release, calibration=calibration)

    before, after = manifest_of(first), manifest_of(second)
    assert [layer.slots for layer in before.layers] == [layer.slots for layer in after.layers]
    assert held(second, "all") == [["rank-8@gate_up_proj", "rank-4@down_proj"]] * 4
    assert after.quality["all"].kl == 0


def test_one_adapter_alone_is_stored_merged(adapters: Paths, text: Path, tmp_path: Path) -> None:
    outcome = run(tmp_path, adapters, "all", calibration=((None, text),))

    assert held(outcome, "all") == [[]] * 4
    assert not outcome.plan.approximated
