"""The baselines by name. `docs/quality.md` lists them with their settings."""

from collections.abc import Callable, Sequence

from consolidation.errors import Refused
from consolidation.evaluation.baselines.average import Average
from consolidation.evaluation.baselines.base_experts import BaseExperts
from consolidation.evaluation.baselines.bitdelta import BitDelta, DQrelo
from consolidation.evaluation.baselines.dare import dare
from consolidation.evaluation.baselines.emr import Emr
from consolidation.evaluation.baselines.hc_smoe import HcSmoe
from consolidation.evaluation.baselines.private import Private
from consolidation.evaluation.baselines.rank_alone import RankAlone
from consolidation.evaluation.baselines.round_robin import RoundRobin
from consolidation.evaluation.baselines.subjects import Subjects
from consolidation.evaluation.baselines.task_arithmetic import task_arithmetic
from consolidation.evaluation.baselines.ties import ties
from consolidation.evaluation.methods import Method
from consolidation.statistics.text import CalibrationFile
from consolidation.statistics.windows import model_windows

Calibration = Sequence[CalibrationFile]
Maker = Callable[[Subjects, Calibration], Method]

RANKS = (8, 32)
BITS = (8, 4, 3)


def _hc_smoe(subjects: Subjects, calibration: Calibration) -> Method:
    windows = {
        name: model_windows(calibration, checkpoint) for name, checkpoint in subjects.models.items()
    }
    return HcSmoe(subjects, windows)


def _low_rank(rank: int) -> Maker:
    return lambda subjects, _: RankAlone(subjects, rank)


def _private(bits: int) -> Maker:
    return lambda subjects, _: Private(subjects, bits)


WITHOUT_BASE: dict[str, Maker] = {
    "average": lambda subjects, _: Average(subjects),
    "round-robin": lambda subjects, _: RoundRobin(subjects),
    "hc-smoe": _hc_smoe,
    **{f"private-{bits}-bit": _private(bits) for bits in BITS},
}
WITH_BASE: dict[str, Maker] = {
    "base-experts": lambda subjects, _: BaseExperts(subjects),
    "task-arithmetic": lambda subjects, _: task_arithmetic(subjects),
    "ties": lambda subjects, _: ties(subjects),
    "dare": lambda subjects, _: dare(subjects),
    "emr": lambda subjects, _: Emr(subjects),
    "bitdelta": lambda subjects, _: BitDelta(subjects),
    "d-qrelo": lambda subjects, _: DQrelo(subjects),
    **{f"low-rank-{rank}": _low_rank(rank) for rank in RANKS},
}
NAMES = tuple(sorted({**WITHOUT_BASE, **WITH_BASE}))


def check_names(names: Sequence[str], *, has_base: bool) -> None:
    """Raise `Refused` for an unknown name, and for a baseline that needs a base but has none."""
    for name in names:
        if name not in NAMES:
            raise Refused(f"no baseline {name!r}; choose from {', '.join(NAMES)}")
        if name in WITH_BASE and not has_base:
            raise Refused(
                f"baseline {name!r} needs the checkpoint that the models were fine-tuned from"
            )


def possible_names(*, has_base: bool) -> tuple[str, ...]:
    """All baselines, or those that need no base."""
    return NAMES if has_base else tuple(sorted(WITHOUT_BASE))


def make_baselines(
    names: Sequence[str], subjects: Subjects, calibration: Calibration
) -> tuple[Method, ...]:
    """The baselines with these names, each once. Only `hc-smoe` reads calibration text.

    Raises `Refused` as `check_names` does.
    """
    check_names(names, has_base=subjects.base is not None)
    makers = {**WITHOUT_BASE, **WITH_BASE}
    return tuple(makers[name](subjects, calibration) for name in dict.fromkeys(names))
