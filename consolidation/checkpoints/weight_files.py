"""Which weights lie in a directory, and what to do with those that are not read. Opens no file."""

from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path

from consolidation.errors import Refused

CONFIG = "config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
CONVERT = (
    'python -c "from transformers import AutoModelForCausalLM as M; '
    "M.from_pretrained('{0}', dtype='auto').save_pretrained('{0}-safetensors')\""
)
PICKLED = "pytorch_model*.bin"
ORIGINAL = "convert it to Hugging Face's layout with the script of its architecture in transformers"
OTHERS = {
    PICKLED: f"convert it with\n  {CONVERT}",
    "*.pth": ORIGINAL,
    "consolidated*.safetensors": ORIGINAL,
    "*.gguf": "GGUF files are quantised or converted: take the checkpoint that it was made from",
    "*.safetensors": f"its tensors must be in {SINGLE}, or in shards beside {INDEX}",
    "*.bin": f"its tensors must be in {SINGLE}, or in shards beside {INDEX}",
}
"""By pattern of file names, in this order: what to do where nothing better is there."""


def check_weight_files(directory: Path) -> None:
    """Raise `Refused` for weights of a kind that is not read, and where two kinds are meant.

    A directory with a config and without weights passes: other errors are about that.
    """
    there = [path.name for path in directory.iterdir() if path.exists()]
    for name in (SINGLE, INDEX):
        if (directory / name).is_symlink() and not {SINGLE, INDEX} & set(there):
            raise Refused(
                f"{directory / name} is a link to a file that is not there: fetch it again"
            )
    check_weight_names(str(directory), there)
    if not {CONFIG, SINGLE, INDEX} & set(there):
        raise Refused(_no_checkpoint(directory, is_empty=not there))


def _no_checkpoint(directory: Path, *, is_empty: bool) -> str:
    what = "is empty" if is_empty else f"holds no checkpoint: it has neither {CONFIG} nor weights"
    inside = sorted(path.parent for path in directory.glob(f"*/{CONFIG}"))
    if inside:
        return f"{directory} {what}. Give one that lies in it, such as {inside[0]}"
    return f"{directory} {what}. Give what save_pretrained wrote, or ORG/NAME on the hub"


def check_weight_names(place: str, names: Collection[str]) -> None:
    """The same by the names of the files of a place: a directory, a name on the hub, an address."""
    adapter = [name for name in ADAPTER if name in names]
    is_whole = SINGLE in names or INDEX in names
    if adapter and is_whole:
        raise Refused(
            f"{place} holds whole weights and an adapter ({adapter[0]}), and it does not say "
            "which is meant: move the adapter elsewhere; the model with it is then BASE+ADAPTER"
        )
    if adapter:
        raise Refused(
            f"{place} holds an adapter ({adapter[0]}) and not the weights of a model: give its "
            f"base too, as NAME=BASE+{place}"
        )
    if is_whole:
        return
    for pattern, advice in OTHERS.items():
        found = [name for name in sorted(names) if fnmatchcase(name.lower(), pattern)]
        if found:
            local = place
            if pattern == PICKLED and CONFIG not in names:
                advice = f"put its model's {CONFIG} beside it, which is missing, and {advice}"
            if pattern == PICKLED and "://" in place:
                local = place.rstrip("/").rsplit("/", 1)[-1]
                advice = f"copy it to a directory {local} of this machine, and {advice}"
            raise Refused(
                f"{place} has neither {SINGLE} nor {INDEX}, but {found[0]}: " + advice.format(local)
            )
