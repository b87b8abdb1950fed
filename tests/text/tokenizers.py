"""Small real tokenizers of the kinds that occur: byte-level BPE, and sentencepiece-like ones."""

import re
from typing import Any, cast

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from serve_app.text.answers.finding import known_formats

CORPUS = [
    "the quick brown fox jumps over the lazy dog and says hello to the world",
    "def main(): return 'hello world'  # the end of the world, naïve café",
    "to be or not to be, that is the question of the other people",
]
SPECIAL = ["<pad>", "<s>", "</s>"]


def byte_level() -> Any:
    """GPT-2's kind: every byte has a symbol, spaces belong to the word that follows."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _wrapped(tokenizer)


def writing(form: str) -> Any:
    """`byte_level` with a chat template of a response format, whose markers are special tokens.

    The template's variable `begin` is how it begins the answer.
    """
    known = known_formats()[form]
    anchor = (known.regions.start_anchor_literals or [""])[0]
    begins = "" if known.forced is None else known.forced.open
    special = re.findall(r"<\|\w+\|>|\[[A-Z_]+\]", known.words)
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"additional_special_tokens": sorted({*special, "<unused>"})})
    tokenizer.chat_template = (
        "{% if tools %}{{ tools | tojson }}\n{% endif %}{% for m in messages %}{{ m.role }}: "
        "{{ m.content }}{{ m.reasoning_content }}{{ m.tool_calls | tojson if m.tool_calls }}\n"
        "{% endfor %}{{ reasoning_effort }}{% if add_generation_prompt %}" + anchor + "{{ begin }}"
        "{% endif %}{# " + " ".join([*known.markers, begins]) + " #}"
    )
    return tokenizer


def sentencepiece_like() -> Any:
    """Llama's kind: a mark for the space, unknown characters as bytes, first space dropped."""
    base = tokenizers.Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=150, special_tokens=SPECIAL, show_progress=False)
    base.train_from_iterator(CORPUS, trainer)
    vocab = base.get_vocab()
    learnt = [symbol for symbol, _ in sorted(vocab.items(), key=lambda item: item[1])]
    symbols = ["<unk>", *SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *learnt[3:]]
    merges = [
        (left, right)
        for left in learnt[3:]
        for right in learnt[3:]
        if left + right in vocab and vocab[left + right] > max(vocab[left], vocab[right])
    ]
    tokenizer = tokenizers.Tokenizer(
        models.BPE(
            {symbol: index for index, symbol in enumerate(symbols)},
            sorted(merges, key=lambda pair: vocab[pair[0] + pair[1]]),
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    return _wrapped(tokenizer)


def _wrapped(tokenizer: tokenizers.Tokenizer) -> Any:
    make = cast(Any, PreTrainedTokenizerFast)
    return make(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
