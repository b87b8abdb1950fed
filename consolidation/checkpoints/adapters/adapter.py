"""An adapter's directory: its files, and what beside them goes with the model. Merges nothing."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from consolidation.checkpoints.adapters.adapter_config import (
    CONFIG,
    AdapterConfig,
    read_adapter_config,
)
from consolidation.checkpoints.adapters.adapter_tensors import WEIGHTS
from consolidation.checkpoints.notes import Note
from consolidation.errors import Refused

PICKLED = "adapter_model.bin"
CONVERT = (
    'python -c "import torch; from safetensors.torch import save_file; '
    "save_file(torch.load('{0}/" + PICKLED + "', weights_only=True), '{0}/" + WEIGHTS + "')\""
)
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter that was found where it should be."""

    directory: Path
    config: AdapterConfig

    def digest(self) -> str:
        """Of its config and its weights, as they lie in their files."""
        found = hashlib.sha256()
        for name in (CONFIG, WEIGHTS):
            with (self.directory / name).open("rb") as file:
                while chunk := file.read(CHUNK):
                    found.update(chunk)
        return found.hexdigest()

    def note_other_base(self, base: str, note: Note) -> None:
        """Note it if it was trained on a model of another name than that of the base."""
        said = self.config.base
        if said and Path(said).name.lower() not in base.lower():
            note(
                f"{self.directory}: the adapter was trained on {said!r}, and is merged into {base}"
            )


def open_adapter(directory: Path) -> Adapter:
    """Read the config. Raises `Refused`, saying what is missing or not read."""
    directory = directory.expanduser().resolve()
    if not directory.is_dir():
        raise Refused(f"no adapter directory {directory}")
    if not (directory / CONFIG).is_file():
        raise Refused(f"{directory} holds no adapter: it has no {CONFIG}")
    config = read_adapter_config(directory)
    if not (directory / WEIGHTS).is_file():
        if (directory / PICKLED).is_file():
            raise Refused(
                f"{directory} has no {WEIGHTS}, but {PICKLED}: convert it with\n  "
                + CONVERT.format(directory)
            )
        raise Refused(f"{directory} has no {WEIGHTS}")
    return Adapter(directory, config)
