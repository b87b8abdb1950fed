"""Which files of a checkpoint or an adapter are read, so which are brought. Opens no file."""

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from consolidation.checkpoints.adapters.adapter import PICKLED
from consolidation.checkpoints.adapters.adapter_config import CONFIG as ADAPTER_CONFIG
from consolidation.checkpoints.adapters.adapter_tensors import WEIGHTS as ADAPTER_WEIGHTS
from consolidation.checkpoints.weight_files import CONFIG, INDEX, SINGLE, check_weight_names
from consolidation.errors import Refused
from representation.json_text import parse_json
from representation.tokenizer_files import TOKENIZER_FILES

BESIDE = {CONFIG, "generation_config.json", *TOKENIZER_FILES}
TEMPLATES = "additional_chat_templates/*.jinja"


def small_files(names: Iterable[str], *, is_adapter: bool) -> list[str]:
    """All but weights, sorted. They say which weights there are."""
    wanted = {ADAPTER_CONFIG, *TOKENIZER_FILES} if is_adapter else {*BESIDE, INDEX}
    return sorted(name for name in names if name in wanted or fnmatchcase(name, TEMPLATES))


def check_files(called: str, names: Collection[str], *, is_adapter: bool) -> None:
    """Raise `Refused` unless there are files to read a model or an adapter from."""
    config = ADAPTER_CONFIG if is_adapter else CONFIG
    if not is_adapter:
        check_weight_names(called, names)
    if config not in names:
        raise Refused(f"{called} is no {'adapter' if is_adapter else 'model'}: it has no {config}")
    if is_adapter and ADAPTER_WEIGHTS not in names:
        there = f", but {PICKLED}: convert it first" if PICKLED in names else ""
        raise Refused(f"{called} has no {ADAPTER_WEIGHTS}{there}")
    if not is_adapter and not {SINGLE, INDEX} & set(names):
        raise Refused(f"{called} has neither {SINGLE} nor {INDEX}")


def weight_files(names: Collection[str], directory: Path, *, is_adapter: bool) -> list[str]:
    """Those that are read, sorted; `directory` has the small files. Raises `Refused`."""
    if is_adapter:
        return [ADAPTER_WEIGHTS]
    if SINGLE in names:
        return [SINGLE]
    try:
        index = parse_json((directory / INDEX).read_text(encoding="utf-8"))
        return sorted({str(shard) for shard in index["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(f"{directory / INDEX}: {type(error).__name__}: {error}") from error
