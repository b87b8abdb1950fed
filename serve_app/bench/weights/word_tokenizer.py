"""A tokenizer of made-up words, for random weights of any vocabulary. It learned nothing."""

from typing import Any, cast

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<s>", "</s>")
"""Tokens 0, 1 and 2."""
LETTERS = "abcdefghijklmnopqrstuvwxyz"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def tokenizer_of(vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that uses every id below `vocabulary`: special ones, bytes, words.

    It has no merges: it reads text byte by byte, and writes words.
    """
    symbols = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    symbols += [f"Ġ{_word(number)}" for number in range(vocabulary - len(symbols))]
    table = {symbol: number for number, symbol in enumerate(symbols[:vocabulary])}
    tokenizer = Tokenizer(models.BPE(vocab=table, merges=[]))
    parts = cast(Any, tokenizer)  # its attributes are set from Rust, without annotations
    parts.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    parts.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    pad, begin, end = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=begin,
        eos_token=end,
        chat_template=CHAT_TEMPLATE,
    )


def _word(number: int) -> str:
    """A word for each number: at least two letters, so that none is the symbol of one byte."""
    letters = ""
    while number or len(letters) < 2:
        number, letter = divmod(number, len(LETTERS))
        letters += LETTERS[letter]
    return letters
