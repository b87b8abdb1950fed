"""The report: one HTML file that needs no network. Assembles what the other modules make."""

import importlib.resources
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, StrictUndefined

from consolidation.evaluation.measures import MethodScore
from consolidation.release import Manifest
from consolidation.release.stand_ins import stood_in
from consolidation.report.findings import Findings, findings
from consolidation.report.holdings import byte_rows, holdings, labels
from consolidation.report.model_table import model_table, number, share
from consolidation.report.prediction import prediction_plot, predictions, rank_correlation
from consolidation.report.quality_plot import mean_frontier, model_frontiers
from consolidation.report.sharing import has_labels, layer_shares, sharing_map

TEMPLATE = "report.html.jinja"


def render_report(
    releases: Sequence[tuple[Manifest, MethodScore | None]],
    others: Sequence[MethodScore] = (),
) -> str:
    """The page about releases, each with its score, and about other methods for comparison.

    A release without a score shows what was measured when it was made. The same input gives the
    same page.
    """
    shown = findings(releases, others)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(mib=_mib, number=number, share=share)
    template = importlib.resources.files(__package__) / "data" / TEMPLATE
    return environment.from_string(template.read_text(encoding="utf-8")).render(_fields(shown))


def _fields(shown: Findings) -> dict[str, Any]:
    points = predictions(shown)
    results = (*shown.releases, *shown.others)
    return {
        "family": shown.manifests[0].family,
        "models": shown.models,
        "releases": [
            {
                "manifest": manifest,
                "result": result,
                "table": model_table(result.models),
                "bytes": byte_rows(manifest),
                "backbones": _backbone_bytes(manifest),
                "stood_in": [str(found) for found in stood_in(manifest)],
                "step_sequences": manifest.decode_step.sequences * len(manifest.models),
                **_experts(manifest),
            }
            for manifest, result in zip(shown.manifests, shown.releases, strict=True)
        ],
        "methods": sorted(
            results, key=lambda one: (one.num_bytes, one.mean_kl is None, one.mean_kl)
        ),
        "ours": {result.name for result in shown.releases},
        "frontiers": [mean_frontier(shown), model_frontiers(shown)] if len(results) > 1 else [],
        "prediction": prediction_plot(shown),
        "num_predictions": len(points),
        "correlation": rank_correlation(points),
    }


def _experts(manifest: Manifest) -> dict[str, Any]:
    """How experts are stored: the map; for what is not readable there, layers and words too."""
    names = sorted(manifest.models)
    maps = [holdings(manifest, name) for name in names]
    is_readable = has_labels(maps)
    return {
        "map": sharing_map(names, maps),
        "layer_shares": None if is_readable else layer_shares(maps),
        "labels": {} if is_readable else dict(zip(names, map(labels, maps), strict=True)),
    }


def _backbone_bytes(manifest: Manifest) -> int:
    blobs = {blob.digest: blob.bytes for one in manifest.models.values() for blob in one.backbone}
    return sum(blobs.values())


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.2f}"
