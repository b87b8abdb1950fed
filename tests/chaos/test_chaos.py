"""What `make chaos` judges by: outcomes, rows, memory. Its faults need an endpoint and minutes."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import openai
import pytest

from tests.chaos.asking import Question, ask
from tests.chaos.catalogue import FAULTS
from tests.chaos.fault import Row
from tests.chaos.ledger import Kind, Ledger, Outcome, counts, reasons
from tests.chaos.memory import SLACK_BYTES, Held, grown
from tests.chaos.references import PROMPTS, References, readable, text_of
from tests.chaos.table import exit_code, table
from tests.support.checkpoints import write_checkpoint

PROMPT = PROMPTS[0]
REQUEST = httpx2.Request("POST", "http://test/v1/completions")
LENGTH = 6


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> References:
    root = tmp_path_factory.mktemp("chaos")
    write_checkpoint(root / "a0", "mixtral")
    found = References(root, (PROMPT,))
    found.add("r1", {"a": "a0"})
    return found


def asked(references: References, *said: Any, streamed: bool = True) -> Outcome:
    """How a request ends to which an endpoint says this: chunks, or what is raised."""

    async def chunks() -> AsyncIterator[Any]:
        for one in said:
            if isinstance(one, Exception):
                raise one
            yield one

    async def create(**_: Any) -> Any:
        if isinstance(said[0], Exception):
            raise said[0]
        return chunks() if streamed else said[0]

    client: Any = SimpleNamespace(completions=SimpleNamespace(create=create))
    question = Question("a", PROMPT, LENGTH, streamed=streamed, logprobs=True)
    return asyncio.run(ask(client, question, references))


def part(
    text: str, tokens: list[str], finish: str | None = None, count: int | None = None
) -> SimpleNamespace:
    usage = None if count is None else SimpleNamespace(completion_tokens=count)
    logprobs = SimpleNamespace(tokens=tokens)
    choice = SimpleNamespace(text=text, finish_reason=finish, logprobs=logprobs)
    return SimpleNamespace(system_fingerprint="r1", usage=usage, choices=[choice])


def right(references: References) -> tuple[str, list[str]]:
    tokens = references.tokens("r1", "a", PROMPT, LENGTH)
    assert tokens is not None
    return text_of(PROMPT, tokens), readable(tokens)


def status_error(
    number: int, body: object, headers: Mapping[str, str] | None = None
) -> openai.APIStatusError:
    response = httpx2.Response(number, headers=headers or {}, request=REQUEST)
    return openai.APIStatusError("no", response=response, body=body)


BODY = {"message": "wait", "type": "server_error", "code": "loading", "param": None}


@pytest.mark.parametrize("streamed", [True, False])
def test_only_the_whole_answer_of_the_reference_is_right(
    references: References, streamed: bool
) -> None:
    text, tokens = right(references)
    whole = part(text, tokens, "length", LENGTH)
    assert asked(references, whole, streamed=streamed).kind is Kind.RIGHT
    for other in (
        part(text + "!", tokens, "length", LENGTH),
        part(text, [*tokens[:-1], "!"], "length", LENGTH),
        part(text, tokens, "length", LENGTH - 1),
    ):
        assert asked(references, other, streamed=streamed).kind is Kind.WRONG


def test_a_stream_that_ends_without_a_reason_is_lost(references: References) -> None:
    text, tokens = right(references)
    outcome = asked(references, part(text[:1], tokens[:1]))
    assert (outcome.kind, outcome.said) == (Kind.LOST, "after 1 characters")


def test_an_error_event_ends_a_stream_unless_what_came_before_was_wrong(
    references: References,
) -> None:
    text, tokens = right(references)
    error = openai.APIError("no", request=REQUEST, body=BODY)
    outcome = asked(references, part(text[:2], tokens[:1]), error)
    assert (outcome.kind, outcome.said) == (Kind.ENDED, "loading")
    assert asked(references, part("other", tokens[:1]), error).kind is Kind.WRONG


def test_a_connection_that_breaks_is_cut_and_one_that_does_not_open_is_refused(
    references: References,
) -> None:
    broken = openai.APIConnectionError(request=REQUEST)
    broken.__cause__ = httpx2.ReadError("reset")
    assert asked(references, broken).kind is Kind.CUT
    unopened = openai.APIConnectionError(request=REQUEST)
    unopened.__cause__ = httpx2.ConnectError("refused")
    assert asked(references, unopened).kind is Kind.REFUSED


def test_a_refusal_needs_openais_body_and_says_when_to_retry(references: References) -> None:
    with_time = {"retry-after": "2"}
    for error, kind in (
        (status_error(503, BODY, with_time), Kind.REFUSED),
        (status_error(503, BODY), Kind.MALFORMED),
        (status_error(500, BODY), Kind.REFUSED),
        (status_error(500, "Internal Server Error"), Kind.MALFORMED),
    ):
        assert asked(references, error).kind is kind


def test_nothing_before_the_timeout_is_hung(references: References) -> None:
    assert asked(references, openai.APITimeoutError(request=REQUEST)).kind is Kind.HUNG


def test_the_ledger_counts_what_ended_since_a_moment() -> None:
    ledger = Ledger()
    for ended, kind, said in ((1.0, Kind.RIGHT, ""), (2.0, Kind.CUT, "x"), (3.0, Kind.CUT, "x")):
        ledger.add(Outcome(kind, "a", 0.0, ended, said))
    since = ledger.since(2.0)
    assert counts(since)["cut"] == 2
    assert counts(since)["right"] == 0
    assert reasons(ledger.since(0.0)) == {"cut: x": 2}


def test_a_row_that_was_not_held_out_says_why_and_fails_the_run() -> None:
    none = counts([])
    rows = [
        Row("one", True, 2.0, 1.25, none | {"right": 3}, {}, {"loads": 7}),
        Row("two", False, 3.0, None, none | {"lost": 1}, {"lost: x": 1}, why="1 lost"),
    ]
    shown = table(rows)
    assert "passed  one" in shown
    assert "loads 7" in shown
    assert shown.endswith("1 lost")
    assert (exit_code(rows), exit_code(rows[:1])) == (1, 0)


def test_memory_files_and_threads_beyond_the_slack_are_named() -> None:
    before = {"engine": Held(100, 10, 5)}
    assert grown(before, {"engine": Held(100 + SLACK_BYTES, 14, 7)}) == []
    more = grown(before, {"engine": Held(200 + SLACK_BYTES, 15, 8)})
    assert [one.split(" after")[0] for one in more] == [
        f"engine: {200 + SLACK_BYTES} bytes",
        "engine: 15 open files",
        "engine: 8 threads",
    ]


def test_every_fault_has_a_name_of_its_own() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names)


def test_a_reference_is_its_models_and_ends_before_a_tie(
    references: References, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = references.tokens("r1", "a", PROMPT, LENGTH)
    assert tokens is not None
    assert len(tokens) == LENGTH
    assert references.shortest("a", PROMPT) >= LENGTH
    assert references.tokens("r2", "a", PROMPT, LENGTH) is None
    monkeypatch.setattr("tests.chaos.references.LEAST_MARGIN", 1e9)
    write_checkpoint(tmp_path / "a0", "mixtral")
    tied = References(tmp_path, (PROMPT,))
    tied.add("r1", {"a": "a0"})
    assert tied.shortest("a", PROMPT) == 0
