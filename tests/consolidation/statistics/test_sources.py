"""What the encoder of an encoder–decoder reads of a text, and what its decoder goes on with."""

from pathlib import Path

import pytest
from tokenizers import processors

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.errors import Refused
from consolidation.statistics.text import CalibrationFile, Document, Encoder
from consolidation.statistics.windows import Window, model_windows, windows
from tests.support.checkpoints import byte_tokenizer, write_checkpoint

START, EOS = 0, 2


@pytest.fixture
def encoder(tmp_path: Path) -> Encoder:
    """With a tokenizer that ends texts with a token, as those of T5 do."""
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", EOS)]
    )
    tokenizer.bos_token = None
    tokenizer.save_pretrained(tmp_path)
    return Encoder(tmp_path, 320, (START,))


def ids(text: str) -> tuple[int, ...]:
    return tuple(byte_tokenizer()(text, add_special_tokens=False)["input_ids"])


def file_of(*documents: Document) -> CalibrationFile:
    return CalibrationFile("pairs.jsonl", "digest", documents)


def test_of_a_pair_the_encoder_reads_the_prompt_and_the_completion_is_scored_with_its_end(
    encoder: Encoder,
) -> None:
    (found,) = windows([file_of(Document("ab", "cd", False))], encoder)
    assert found == Window((START, *ids("cd"), EOS), 1, (*ids("ab"), EOS))


def test_a_long_pair_loses_the_end_of_each(encoder: Encoder) -> None:
    (found,) = windows([file_of(Document("abcdef", "uvwxyz", False))], encoder, max_window=4)
    assert found == Window((START, *ids("uvw")), 1, (*ids("abc"), EOS))


def test_of_running_text_the_decoder_goes_on_in_the_middle_of_each_window(
    encoder: Encoder,
) -> None:
    found = windows([file_of(Document("", "abcdefghij", True))], encoder, max_window=4)
    assert found == [
        Window((START, *ids("cd")), 1, (*ids("ab"), EOS)),
        Window((START, *ids("gh")), 1, (*ids("ef"), EOS)),
        Window((START, *ids("j")), 1, (*ids("i"), EOS)),
    ]


def test_long_prompts_do_not_use_up_the_limit(encoder: Encoder) -> None:
    pairs = [Document("x" * 200, "y" * 4, False)] * 20
    found = windows([file_of(*pairs)], encoder, max_tokens=400)
    # Of 207 tokens, 5 are scored: each costs 16 of the limit.
    assert len(found) == 5


def test_an_empty_prompt_is_named_where_the_tokenizer_adds_nothing(tmp_path: Path) -> None:
    bare = write_checkpoint(tmp_path / "bare", "switch_transformers", tokenizer=False)
    checkpoint = open_checkpoint(bare)
    pairs = file_of(Document("a", "b", False), Document("", "b", False))
    with pytest.raises(Refused, match=r"pairs\.jsonl, item 2: its prompt is empty, and"):
        model_windows([pairs], checkpoint)
    whole = write_checkpoint(tmp_path / "whole", "switch_transformers")
    assert model_windows([pairs], open_checkpoint(whole))[1].source == (1,)


def test_work_counts_tokens_that_go_through_all_layers() -> None:
    assert Window((1,) * 6, 1, (1,) * 4).work == 5
    assert Window((1,) * 6, 1).work == 6
