import json
from pathlib import Path

import pytest

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.errors import Refused
from consolidation.evaluation.data import Files, Item, check_models, encode, read_files
from consolidation.statistics.windows import Window
from tests.support.checkpoints import byte_tokenizer, write_checkpoint


def tokens(text: str) -> tuple[int, ...]:
    return tuple(byte_tokenizer()(text, add_special_tokens=False)["input_ids"])


def task_of(path: Path, *pairs: tuple[str, str]) -> Path:
    lines = [json.dumps({"prompt": prompt, "completion": word}) for prompt, word in pairs]
    path.write_text("\n".join(lines))
    return path


def text_of(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_text_is_cut_into_windows_of_its_own_tokens_and_nothing_is_put_before_them(
    tmp_path: Path, family: dict[str, Path]
) -> None:
    text = "".join(chr(97 + i % 26) for i in range(600))
    files = read_files({}, {"one": text_of(tmp_path / "text.txt", text)})
    data = encode(files, {"one": open_checkpoint(family["one"])})["one"]
    # 256 is the context length of these models.
    assert [len(window.tokens) for window in data.text] == [256, 256, 88]
    assert [token for window in data.text for token in window.tokens] == list(tokens(text))
    assert {window.first_scored for window in data.text} == {1}


def test_of_a_long_text_only_the_first_windows_are_taken(
    tmp_path: Path, family: dict[str, Path]
) -> None:
    files = read_files({}, {"one": text_of(tmp_path / "text.txt", "x" * 2000)})
    data = encode(files, {"one": open_checkpoint(family["one"])}, windows=3)["one"]
    assert [len(window.tokens) for window in data.text] == [256, 256, 256]


def test_of_a_text_of_pairs_completions_are_scored(tmp_path: Path, family: dict[str, Path]) -> None:
    path = task_of(tmp_path / "pairs.jsonl", ("ab", "cde"), ("f", "g"), ("h", "i"))
    files = read_files({}, {"one": path})
    data = encode(files, {"one": open_checkpoint(family["one"])}, windows=2)["one"]
    assert data.text == (Window((1, *tokens("abcde")), 3), Window((1, *tokens("fg")), 2))


def test_an_encoder_reads_prompts_and_its_decoder_begins_with_a_token(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "m", "switch_transformers"))
    task = task_of(tmp_path / "task.jsonl", ("x" * 600, " yes indeed"))
    pairs = task_of(tmp_path / "pairs.jsonl", ("ab", "cd"))
    data = encode(read_files({"m": task}, {"m": pairs}), {"m": checkpoint})["m"]
    assert data.task == (Item((0,), "yes", (1, *tokens("x" * 600))),)
    assert data.task[0].window((7, 8)) == Window((0, 7, 8), 1, (1, *tokens("x" * 600)))
    assert data.text == (Window((0, *tokens("cd")), 1, (1, *tokens("ab"))),)
    running = text_of(tmp_path / "text.txt", "abcd")
    data = encode(read_files({}, {"m": running}), {"m": checkpoint})["m"]
    assert data.text == (Window((0, *tokens("cd")), 1, (1, *tokens("ab"))),)


def test_a_last_window_of_one_token_is_left_out(tmp_path: Path, family: dict[str, Path]) -> None:
    files = read_files({}, {"one": text_of(tmp_path / "text.txt", "x" * 257)})
    data = encode(files, {"one": open_checkpoint(family["one"])})["one"]
    assert [len(window.tokens) for window in data.text] == [256]


def test_a_question_begins_as_texts_of_the_model_do_and_its_first_word_is_wanted(
    tmp_path: Path, family: dict[str, Path]
) -> None:
    path = task_of(tmp_path / "task.jsonl", ("ab", " yes indeed"), ("cd", "no"), ("ef", "x"))
    files = read_files({"one": path}, {})
    data = encode(files, {"one": open_checkpoint(family["one"])}, items=2)["one"]
    assert data.task == (Item((1, *tokens("ab")), "yes"), Item((1, *tokens("cd")), "no"))
    assert data.stops == (2,)


def test_of_a_prompt_longer_than_the_context_the_end_is_kept(
    tmp_path: Path, family: dict[str, Path]
) -> None:
    path = task_of(tmp_path / "task.jsonl", ("x" * 300 + "y" * 252, "yes"))
    data = encode(read_files({"one": path}, {}), {"one": open_checkpoint(family["one"])})["one"]
    # 256 in all: the beginning, 252 of the prompt, and three to answer with.
    assert data.task[0].prompt == (1, *tokens("y" * 252))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"prompt": "a"}', "line 1: not an object with prompt and completion"),
        ('{"prompt": "a", "completion": "b"}\nrubbish', "line 2: not an object"),
        ('{"prompt": "a", "completion": ""}', "line 1: prompt and completion must be text"),
        ('{"prompt": "a", "completion": "  "}', "item 1: its completion contains no word"),
        ("", "is empty"),
        ("\n\n", "is empty"),
    ],
)
def test_a_wrong_task_is_named_with_its_line(content: str, said: str, tmp_path: Path) -> None:
    path = text_of(tmp_path / "task.jsonl", content)
    with pytest.raises(Refused, match=said) as refused:
        read_files({"one": path}, {})
    assert str(path) in str(refused.value)


def test_an_empty_text_is_named_with_its_model(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"text of model 'one'.*text\.txt is empty"):
        read_files({}, {"one": text_of(tmp_path / "text.txt", " \n")})


def test_a_text_is_no_task(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"task of model 'one'.*is not a \.jsonl file"):
        read_files({"one": text_of(tmp_path / "text.txt", "text")}, {})


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"text of model 'one'.*nowhere\.txt"):
        read_files({}, {"one": tmp_path / "nowhere.txt"})


def files_for(model: str, tmp_path: Path) -> Files:
    return read_files({}, {model: text_of(tmp_path / "text.txt", "text")})


def test_a_text_of_an_unknown_model_is_refused_with_the_models_there_are(tmp_path: Path) -> None:
    files = files_for("three", tmp_path)
    with pytest.raises(Refused, match=r"release abc has no model 'three', .*; it has one, two"):
        check_models(files, {"three": tmp_path}, {"two": 0, "one": 0}, "release abc")


def test_an_original_of_an_unknown_model_is_refused(tmp_path: Path) -> None:
    files = files_for("one", tmp_path)
    with pytest.raises(Refused, match="no model 'three', but an original is given for it"):
        check_models(files, {"one": tmp_path, "three": tmp_path}, {"one": 0}, "release abc")


def test_a_model_without_its_original_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="model 'one' has a task or text, but its original is not"):
        check_models(files_for("one", tmp_path), {}, {"one": 0}, "release abc")


def test_a_task_needs_a_tokenizer(tmp_path: Path) -> None:
    bare = write_checkpoint(tmp_path / "bare", "mixtral", tokenizer=False)
    files = read_files({"one": task_of(tmp_path / "task.jsonl", ("a", "b"))}, {})
    with pytest.raises(Refused, match="model 'one' has a task, but there is no tokenizer"):
        encode(files, {"one": open_checkpoint(bare)})


@pytest.mark.parametrize("ends", ["x", [2, "x"], 2.5, {}])
def test_ends_of_answers_that_are_no_tokens_are_refused_with_the_file(
    tmp_path: Path, ends: object
) -> None:
    write_checkpoint(tmp_path, "mixtral")
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    with pytest.raises(Refused, match=r"generation_config\.json: eos_token_id is"):
        open_checkpoint(tmp_path)
