"""The demo's tokenizer: one token a byte, so that any text goes in and out whole. No merges."""

from typing import Any, cast

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

BOS, EOS, PAD = 256, 257, 258
"""Tokens 0 to 255 are the bytes of UTF-8."""
VOCABULARY = 264
"""Rows of the embedding: rounded up to a multiple of 8, the rest is never used."""
BOS_TEXT, EOS_TEXT, PAD_TEXT = "<|begin|>", "<|end|>", "<|pad|>"

CHAT_TEMPLATE = (
    "{{ bos_token }}{{ messages[-1]['content'] }}{% if add_generation_prompt %}:{% endif %}"
)
"""The last message and a colon: the models answer one word at a time and remember nothing."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that `save_pretrained` writes and `AutoTokenizer` reads."""
    vocabulary = {symbol: byte for byte, symbol in enumerate(_byte_symbols())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    part = cast(Any, tokenizer)  # its attributes are set from Rust, without annotations
    part.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    part.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([BOS_TEXT, EOS_TEXT, PAD_TEXT])
    part.post_processor = processors.TemplateProcessing(
        single=f"{BOS_TEXT} $A",
        pair=f"{BOS_TEXT} $A $B",
        special_tokens=[(BOS_TEXT, BOS)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS_TEXT,
        eos_token=EOS_TEXT,
        pad_token=PAD_TEXT,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def encode_prompt(text: str) -> list[int]:
    """What the tokenizer makes of `text`, without asking it: begin, then the bytes."""
    return [BOS, *text.encode()]


def encode_answer(text: str) -> list[int]:
    """The bytes of `text`, then end."""
    return [*text.encode(), EOS]


def decode_answer(tokens: list[int]) -> str:
    """The text before the first end token."""
    stop = tokens.index(EOS) if EOS in tokens else len(tokens)
    return bytes(token for token in tokens[:stop] if token < BOS).decode(errors="replace")


def _byte_symbols() -> list[str]:
    """The printable character that byte-level tokenizers write for each byte, in byte order.

    Printable Latin-1 stands for itself; the other bytes take the characters from U+0100 on
    (GPT-2's byte-level alphabet, which `ByteLevel` expects).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return [
        chr(byte) if byte in printable else chr(0x100 + others.index(byte)) for byte in range(256)
    ]
