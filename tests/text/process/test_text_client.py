"""Texts through a process that may end at any moment are the texts that would have been."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.protocol.messages import Piece
from serve_app.text.errors import BadVariable, TextError, TextUnavailable
from serve_app.text.process import keeper, open_choice, text_client
from serve_app.text.process.text_client import TextClient
from serve_app.text.process.text_process import Hear
from tests.serving.running import until
from tests.text.process.choices import MODELS, RELEASE, Told, chat, tokenizer, wanted, write
from tests.text.process.inline import InlineProcess

BYTES = (RELEASE, "bytes")
TOKENS = tokenizer("bytes").encode("the quick brown fox")


class Processes:
    """Starts processes, and knows them. held: those started answer nothing until released."""

    def __init__(self) -> None:
        self.started: list[InlineProcess] = []
        self.held = False

    async def start(self, directory: str, hear: Hear) -> InlineProcess:
        self.started.append(InlineProcess(hear, held=self.held))
        return self.started[-1]

    @property
    def last(self) -> InlineProcess:
        return self.started[-1]


def _run(test: Callable[[TextClient, Processes], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        processes = Processes()
        client = TextClient(processes.start, **options)
        client.begin()
        try:
            await client.load(RELEASE, MODELS, write)
            await test(client, processes)
        finally:
            await client.aclose()

    asyncio.run(run())


async def _turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


_STOPS = st.lists(st.sampled_from(["e", "o w", "the", "qu", "xx", "lo th", " "]), max_size=3)
_WANTED = st.builds(
    wanted,
    echo=st.booleans(),
    logprobs=st.none() | st.integers(0, 2),
    stop=_STOPS,
    min_tokens=st.integers(0, 4),
)
_TOLD = st.builds(
    Told,
    model=st.sampled_from(MODELS),
    prompt=st.lists(st.integers(3, 399), min_size=1, max_size=12),
    tokens=st.lists(st.integers(3, 399), min_size=1, max_size=12)
    | st.just(tokenizer("bytes").encode(" says hello to the world")),
    wanted=_WANTED,
    finish=st.sampled_from(["length", "stop"]),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(_TOLD, min_size=1, max_size=4),
    st.lists(st.tuples(st.sampled_from(["go on", "kill", "wait"]), st.integers(0, 3)), max_size=16),
)
def test_pieces_are_the_same_whenever_the_process_ends(
    told: list[Told], moves: list[tuple[str, int]]
) -> None:
    received: list[list[Piece]] = [[] for _ in told]

    async def test(client: TextClient, processes: Processes) -> None:
        keys = [_open(client, one, received[number], number) for number, one in enumerate(told)]
        events = [one.events() for one in told]
        for step in range(max(map(len, events))):
            for key, mine in zip(keys, events, strict=True):
                if step < len(mine):
                    client.add(key, *mine[step])
            move, turns = moves[step % len(moves)] if moves else ("go on", 0)
            if move != "wait":
                await _turns(turns)
            if move == "kill":
                processes.last.kill()
        await until(lambda: all(mine and mine[-1]["finish"] is not None for mine in received))
        assert client.num_restarts == len(processes.started) - 1

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(keeper, "MOST_DEATHS", 1000)
        patched.setattr(open_choice, "PROMPT_PART", 3)
        _run(test)
        assert received == [one.expected(number) for number, one in enumerate(told)]


_HELLO = tokenizer("bytes").encode(" hello to the café")
_FULL = {"echo": True, "logprobs": 2}
_CALLS = tokenizer("calls").encode(
    'so it is</think>\n\nI will.\n<tool_call>\n{"name": "run", "arguments": {"a": "é"}}\n'
    '</tool_call>\n<tool_call>{"name": "run"}</tool_call>'
)
_ANSWER = {"begun": "<think>\n", "plain": False, "tools": {"run": {}}, "single": False}


@pytest.mark.parametrize(
    "told",
    [
        Told("bytes", TOKENS, _HELLO, wanted(stop=["lo to that", "the cat"], **_FULL)),
        Told("bytes", TOKENS, _HELLO, wanted(stop=["lo to the"], **_FULL)),
        Told("bytes", TOKENS, _HELLO, wanted(stop=["lo to"], min_tokens=4, **_FULL)),
        Told("pieces", [4, 260], [300, 0xC3 + 4, 0xA9 + 4, 301], wanted(**_FULL), "stop"),
        Told("calls", TOKENS, _CALLS, wanted(logprobs=1, answer=_ANSWER), "stop"),
        Told("calls", TOKENS, _CALLS, wanted(stop=["\nI will"], answer=_ANSWER)),
        Told("calls", TOKENS, _CALLS, wanted(answer={**_ANSWER, "single": True}), "stop"),
    ],
    ids=[
        *("no stop after two beginnings", "stop", "stop too early", "bytes"),
        *("calls", "stop before calls", "a single call"),
    ],
)
def test_pieces_are_the_same_whichever_token_the_process_ends_at(told: Told) -> None:
    async def received(last: int, turns: int) -> list[Any]:
        processes, pieces = Processes(), list[Any]()
        client = TextClient(processes.start)
        client.begin()
        await client.load(RELEASE, [told.model], write)
        key = _open(client, told, pieces)
        events = told.events()
        for event in events[:last]:
            client.add(key, *event)
        await _turns(9)  # all of them are answered
        client.add(key, *events[last])
        await _turns(turns)
        processes.last.kill()
        await _turns(9)
        for event in events[last + 1 :]:
            client.add(key, *event)
        await _turns(9)
        await client.aclose()
        return pieces

    expected = told.expected(0)
    for last in range(len(told.tokens)):
        for turns in (0, 1, 2, 9):
            assert asyncio.run(received(last, turns)) == expected, (last, turns)


def test_a_long_prompt_is_echoed_in_parts_and_others_go_between() -> None:
    long = Told("bytes", [*TOKENS] * 200, _HELLO, wanted(**_FULL))
    short = Told("bytes", TOKENS, _HELLO, wanted(**_FULL))
    heard: list[tuple[int, Piece]] = []

    async def test(client: TextClient, processes: Processes) -> None:
        for number, told in enumerate((long, short)):
            receive = partial(lambda number, piece: heard.append((number, piece)), number)
            key = client.open(BYTES, number, told.prompt, told.wanted, receive)
            client.echo(key, told.prompt_logprobs())
            for event in told.events():
                client.add(key, *event)
        await until(lambda: sum(piece["finish"] is not None for _, piece in heard) == 2)

    _run(test)
    for number, told in enumerate((long, short)):
        assert [piece for mine, piece in heard if mine == number] == told.expected(number)
    ended = next(at for at, (mine, piece) in enumerate(heard) if mine and piece["finish"])
    assert any(mine == 0 for mine, _ in heard[:ended])
    assert max(len(piece["tokens"]) for _, piece in heard) <= open_choice.PROMPT_PART + 1
    assert not heard[-1][0]  # the short one does not wait for the end of the long one


def _open(client: TextClient, told: Told, received: list[Any], number: int = 0) -> int:
    of = (RELEASE, told.model)
    key = client.open(of, number, told.prompt, told.wanted, received.append)
    if told.wanted["echo"]:
        client.echo(key, told.prompt_logprobs())
    return key


def test_what_a_step_says_of_all_choices_is_one_message_each_way() -> None:
    async def test(client: TextClient, processes: Processes) -> None:
        received: list[Any] = []
        told = Told("bytes", TOKENS, TOKENS, wanted())
        processes.last._held = True
        keys = [_open(client, told, received, number) for number in range(5)]
        for key in keys:
            client.add(key, TOKENS[0], None, None)
        await _turns(3)
        [turn] = processes.last.turns
        assert (len(turn["opened"]), len(turn["tokens"])) == (5, 5)
        processes.last.release()
        assert [piece["choice"] for piece in received] == [0, 1, 2, 3, 4]

    _run(test)


def test_a_closed_choice_hears_nothing_more_and_is_not_told_to_the_next_process() -> None:
    async def test(client: TextClient, processes: Processes) -> None:
        received: list[Any] = []
        key = _open(client, Told("bytes", TOKENS, TOKENS, wanted()), received)
        client.add(key, TOKENS[0], None, None)
        client.close(key)
        client.add(key, TOKENS[1], None, None)
        await _turns(5)
        processes.held = True
        processes.last.kill()
        await _turns(10)
        assert processes.last.turns[0]["opened"] == []
        assert received == []

    _run(test)


def test_a_process_that_takes_over_is_told_no_log_probabilities_that_were_shown() -> None:
    async def test(client: TextClient, processes: Processes) -> None:
        received: list[Any] = []
        told = Told("bytes", TOKENS, TOKENS, wanted(logprobs=2, stop=[" fox!"]))
        key = _open(client, told, received)
        for event in told.events()[:-1]:
            client.add(key, *event)
        await _turns(5)
        processes.held = True
        processes.last.kill()
        await _turns(10)
        [opening] = processes.last.turns[0]["opened"]
        assert opening["past"] is not None
        assert list(opening["past"]["tokens"]) == TOKENS[:-1]
        assert opening["past"]["logprobs"] == ()

    _run(test)


def test_questions_are_asked_again_once() -> None:
    async def test(client: TextClient, processes: Processes) -> None:
        processes.last._held = True
        asking = asyncio.create_task(client.encode(BYTES, ["the quick brown fox"], most=99))
        await _turns(3)
        processes.last.kill()
        assert await asking == [TOKENS]

        processes.last._held = processes.held = True
        asking = asyncio.create_task(client.encode(BYTES, ["the quick brown fox"], most=99))
        await _turns(3)
        processes.last.kill()
        await _turns(10)
        processes.held = False
        processes.last.kill()
        with pytest.raises(TextUnavailable, match="twice"):
            await asking
        assert await client.decode(BYTES, TOKENS) == "the quick brown fox"

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(keeper, "MOST_DEATHS", 1000)
        _run(test)


def test_a_process_that_takes_over_has_the_releases_that_are_there() -> None:
    async def test(client: TextClient, processes: Processes) -> None:
        await client.load("r2", ["bytes"], write)
        await client.load("r3", ["bytes"], write)
        await client.drop("r3")
        processes.held = True
        processes.last.kill()
        await _turns(10)
        assert set(processes.last.turns[0]["releases"]) == {RELEASE, "r2"}
        processes.last.release()
        assert await client.encode(("r2", "bytes"), ["the quick brown fox"], most=99) == [TOKENS]

    _run(test)


def test_errors_keep_their_kind() -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]

    async def test(client: TextClient, _: Processes) -> None:
        with pytest.raises(BadVariable, match="tools"):
            await client.encode_chat(BYTES, chat([], tools=1), most=99)
        with pytest.raises(TextError, match="nested too deeply"):
            await client.encode_chat(BYTES, chat([], mood=deep), most=99)
        with pytest.raises(TextError, match="model bad"):
            await client.load("r9", ["bad"], lambda _, directory: directory.mkdir(parents=True))

    _run(test)


def test_a_process_that_keeps_ending_is_given_up_and_everybody_is_told() -> None:
    async def test(client: TextClient, processes: Processes) -> None:
        received: list[Any] = []
        key = _open(client, Told("bytes", TOKENS, TOKENS, wanted()), received)
        processes.held = True
        processes.last.kill()
        await _turns(10)
        asking = asyncio.create_task(client.encode(BYTES, ["a"], most=99))
        await _turns(3)
        for _ in range(keeper.MOST_DEATHS - 1):
            assert client.trouble is None
            processes.last.kill()
            await _turns(10)
        assert client.trouble is not None
        assert "3 times within a minute: killed" in client.trouble
        with pytest.raises(TextUnavailable, match="3 times"):
            await asking
        assert [type(each) for each in received] == [TextUnavailable]
        client.add(key, TOKENS[0], None, None)
        with pytest.raises(TextUnavailable):
            await client.decode(BYTES, [])
        with pytest.raises(TextUnavailable):
            _open(client, Told("bytes", TOKENS, TOKENS, wanted()), received)
        assert len(processes.started) == keeper.MOST_DEATHS

    _run(test)


def test_a_process_that_does_not_answer_is_ended_and_another_takes_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeper, "LOOK_S", 0.01)
    now = 0.0

    async def test(client: TextClient, processes: Processes) -> None:
        nonlocal now
        received: list[Any] = []
        key = _open(client, Told("bytes", TOKENS, TOKENS, wanted()), received)
        client.add(key, TOKENS[0], None, None)
        await _turns(5)
        processes.last._held = True
        client.add(key, TOKENS[1], None, None)
        asking = asyncio.create_task(client.encode(BYTES, ["a"], most=99))
        await asyncio.sleep(0.05)
        assert len(processes.started) == 1
        now += text_client.ANSWER_S + 1
        with pytest.raises(TextUnavailable, match="did not answer"):
            await asking
        await until(lambda: len(received) == 2)
        assert len(processes.started) == 2

    _run(test, clock=lambda: now)


def test_a_process_that_cannot_be_started_is_given_up() -> None:
    async def start(directory: str, hear: Hear) -> InlineProcess:
        raise OSError("no more processes")

    async def run() -> None:
        client = TextClient(start)
        client.begin()
        with pytest.raises(TextUnavailable, match="cannot be started: no more processes"):
            await client.load(RELEASE, MODELS, write)
        await client.aclose()

    asyncio.run(run())
