from pathlib import Path
from typing import Any

import pytest
import torch

from consolidation.errors import Refused
from consolidation.release import Golden, golden_findings
from consolidation.statistics.text import CalibrationFile, Document, Encoder, read_calibration
from consolidation.statistics.windows import MAX_TOKENS, Window, windows
from tests.support.checkpoints import byte_tokenizer


@pytest.fixture
def encoder(tmp_path: Path) -> Encoder:
    byte_tokenizer().save_pretrained(tmp_path)
    return Encoder(tmp_path, 320)


def file_of(*documents: Document) -> CalibrationFile:
    return CalibrationFile("file", "digest", documents)


def test_running_text_is_cut_into_windows_that_begin_alike(encoder: Encoder) -> None:
    found = windows([file_of(Document("", "abcdefgh", True))], encoder, max_window=4)
    ids = encoder.encode("abcdefgh")
    assert found == [
        Window((1, *ids[:3]), 1),
        Window((1, *ids[3:6]), 1),
        Window((1, *ids[6:]), 1),
    ]


def test_of_a_pair_only_the_completion_is_scored(encoder: Encoder) -> None:
    (found,) = windows([file_of(Document("ab", "cd", False))], encoder)
    assert found == Window((1, *encoder.encode("abcd")), 3)


def test_of_a_long_pair_the_beginning_of_the_prompt_is_left_out(encoder: Encoder) -> None:
    (found,) = windows([file_of(Document("abcdef", "xy", False))], encoder, max_window=4)
    assert found == Window(tuple(encoder.encode("efxy")), 2)
    (found,) = windows([file_of(Document("ab", "uvwxyz", False))], encoder, max_window=4)
    assert found == Window(tuple(encoder.encode("buvw")), 1)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_only_line_feeds_end_a_line_and_a_mark_before_the_text_is_none_of_it(
    mark: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "pairs.jsonl"
    line = '{"prompt": "a\u2028b", "completion": "c\x85d"}'
    path.write_bytes(mark + f"{line}\r\n\n{line}".encode())
    (found,) = read_calibration([path])
    assert found.documents == (Document("a\u2028b", "c\x85d", False),) * 2
    path = tmp_path / "text.txt"
    path.write_bytes(mark + b"text")
    (found,) = read_calibration([path])
    assert found.documents == (Document("", "text", True),)


def test_files_share_the_tokens_there_may_be(encoder: Encoder) -> None:
    files = [file_of(Document("", letter * 100, True)) for letter in "ab"]
    found = windows(files, encoder, max_window=16, max_tokens=64)
    assert sum(len(window.tokens) for window in found) <= 64
    used = {window.tokens[-1] for window in found}
    assert used == {encoder.encode("a")[0], encoder.encode("b")[0]}


def test_the_text_of_the_package_is_used_without_files(encoder: Encoder) -> None:
    found = windows(read_calibration(()), encoder)
    assert MAX_TOKENS - 512 < sum(len(window.tokens) for window in found) <= MAX_TOKENS


def test_text_too_short_to_score_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="too short"):
        windows([file_of(Document("", "a", True))], Encoder(tmp_path, 320))


def test_a_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(Refused, match="tokenizer cannot be read"):
        Encoder(tmp_path, 320)


def test_tokens_beyond_the_vocabulary_are_refused(tmp_path: Path) -> None:
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(Refused, match="the model knows 50"):
        Encoder(tmp_path, 50).encode("a~")


GOLDEN: dict[str, Any] = {
    "prompt": (1,),
    "tokens": (2,),
    "top": (((2, 5.0), (0, 4.0)),),
    "dtype": "float32",
}


@pytest.mark.parametrize(
    ("logits", "dtype", "wrong"),
    [
        ([4.0, 0.0, 5.0], "float32", False),
        ([4.0, 0.0, 5.004], "float32", False),
        ([4.0, 0.0, 5.02], "float32", True),
        ([4.0, 0.0, 5.02], "bfloat16", False),
        ([4.0, 6.0, 5.0], "bfloat16", True),
        ([4.0, 0.0, float("nan")], "bfloat16", True),
    ],
)
def test_golden_logits_are_compared_within_a_tolerance_of_the_dtype(
    logits: list[float], dtype: str, wrong: bool
) -> None:
    findings = golden_findings(Golden(**GOLDEN), torch.tensor([logits]), dtype)
    assert bool(findings) == wrong
