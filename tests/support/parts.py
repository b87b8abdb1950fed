"""Parts of experts with random content, in any format."""

import torch

from representation.formats import ExpertShape, Format


def random_part(
    shape: ExpertShape,
    fmt: Format,
    dtype: torch.dtype = torch.float32,
    *,
    residual: bool,
    seed: int = 0,
    size: float = 0.05,
) -> dict[str, torch.Tensor]:
    """The tensors of a blob of this format; values, or factors and scales, are of this size."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, (form, kind) in fmt.tensor_specs(shape, dtype, residual=residual).items():
        if kind == torch.uint8:
            found[name] = torch.randint(0, 256, form, generator=generator, dtype=kind)
        else:
            found[name] = (torch.randn(form, generator=generator) * size).to(kind)
    return found
