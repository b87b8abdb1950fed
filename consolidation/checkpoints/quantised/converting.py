"""What converts a quantised checkpoint that is not read to one that is. Runs nothing."""

from pathlib import Path

_GPTQMODEL = "from gptqmodel.utils.model_dequant import dequantize_model as d; d({0}, {1})"
_COMPRESSED = (
    "from compressed_tensors.entrypoints.convert import CompressedTensorsDequantizer as D, "
    "convert_checkpoint as c; c({0}, {1}, D({0}))"
)
_TRANSFORMERS = (
    "from transformers import AutoModelForCausalLM as M; "
    "M.from_pretrained({0}).dequantize().save_pretrained({1})"
)
CODE = {
    "bitsandbytes": _TRANSFORMERS,
    "compressed-tensors": _COMPRESSED,
    "gptq": _GPTQMODEL,
    "higgs": _TRANSFORMERS,
    "modelopt": _GPTQMODEL,
}
"""By `quant_method`: Python for a directory and a new one, with gptqmodel 7.7, compressed-tensors
0.20, and transformers 5.23 with the library of the format. There is none for AWQ: gptqmodel 7.7
writes its columns in the order in which they are packed, which is another model.
"""


def how_to_convert(method: str, directory: Path) -> str:
    """A sentence with a command, if there is one for the method."""
    if method not in CODE:
        return "save it in bfloat16 with what quantised it, or take the model it was made from"
    code = CODE[method].format(f"'{directory}'", f"'{directory}-bf16'")
    return f'convert it with\n  python -c "{code}"'
