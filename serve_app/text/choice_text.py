"""Turns the tokens of one choice into text. Holds back what must not be shown yet."""

from collections.abc import Sequence

from serve_app.protocol.messages import Alternative, Piece, TokenItem
from serve_app.text.answers.answer_parser import AnswerParser
from serve_app.text.choice_facts import Past, TokenLogprob, Wanted
from serve_app.text.detokenize import Detokenizer
from serve_app.text.stops import StopMatcher
from serve_app.text.tokenizer import Tokenizer


class ChoiceText:
    """Text of one choice so far. Offsets are in characters of the whole text, echo included.

    Every generated token has an entry in the log-probabilities, including a final stop token.
    Tokens from the beginning of a stop string on have none, because their text is not shown.
    Where an answer is told apart, stop strings and log-probabilities are of all that the model
    writes.
    """

    def __init__(
        self, number: int, prompt: Sequence[int], tokenizer: Tokenizer, wanted: Wanted
    ) -> None:
        self._number = number
        self._prompt = prompt
        self._echoed = 0
        self._tokenizer = tokenizer
        self._wanted = wanted
        self._parser = _parser(tokenizer, wanted)
        self._detokenizer = Detokenizer(self._decode, () if wanted["echo"] else prompt)
        self._stops = StopMatcher(wanted["stop"])
        self._decoded = 0
        self._shown = 0
        self._held: list[TokenItem] = []
        self._num_tokens = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended it; the engine must be told."""
        return self._stops.matched is not None

    def echo(self, num: int) -> Piece:
        """So many more tokens of the prompt, without log-probabilities."""
        return self._piece("".join(map(self._take, self._more_of_prompt(num))), 0, None)

    def add_prompt(self, logprobs: Sequence[TokenLogprob | None]) -> Piece:
        """As many more, with their log-probabilities; None for that of the first token."""
        text = ""
        for token, logprob in zip(self._more_of_prompt(len(logprobs)), logprobs, strict=True):
            self._hold(token, logprob)
            text += self._take(token)
        return self._piece(text, 0, None)

    def _more_of_prompt(self, num: int) -> Sequence[int]:
        begin, self._echoed = self._echoed, self._echoed + num
        return self._prompt[begin : self._echoed]

    def add(self, token: int, logprob: TokenLogprob | None, finish: str | None) -> Piece:
        """One more token. The piece may be empty, and says whether the choice has ended.

        token: negative if there is none, only an end. finish: why the engine ends it; "complete" is
        a stop whose token is shown.
        """
        if token < 0:
            return self._end("", 0, finish)
        self._num_tokens += 1
        if self._wanted["logprobs"] is not None and logprob is not None:
            self._hold(token, logprob)
        if finish == "stop":
            return self._end("", 1, "stop")
        text = self._pass(self._take(token))
        if finish is not None and not self.stopped:
            return self._end(text, 1, "stop" if finish == "complete" else finish)
        return self._piece(text, 1, "stop" if self.stopped else None)

    def catch_up(self, past: Past) -> None:
        """Brings a new object to where another was that told all this, and shows none of it."""
        echoed, logprobs = past["prompt"], past["logprobs"]
        shown = echoed + len(past["tokens"]) - len(logprobs)
        self.echo(min(shown, echoed))
        if shown < echoed:
            self.add_prompt(logprobs[: echoed - shown])
        for position, token in enumerate(past["tokens"], echoed):
            self.add(token, logprobs[position - shown] if position >= shown else None, None)

    def _end(self, text: str, num_tokens: int, finish: str | None) -> Piece:
        rest = self._detokenizer.flush()
        self._decoded += len(rest)
        text += self._pass(rest)
        if not self.stopped:
            text += self._stops.flush()
        return self._piece(text, num_tokens, "stop" if self.stopped else finish)

    def _take(self, token: int) -> str:
        text = self._detokenizer.push(token)
        self._decoded += len(text)
        return text

    def _pass(self, text: str) -> str:
        """Stop strings apply only after `min_tokens`, like stop tokens."""
        if self._num_tokens < self._wanted["min_tokens"]:
            return text
        return self._stops.push(text)

    def _piece(self, text: str, num_tokens: int, finish: str | None) -> Piece:
        self._shown += len(text)
        piece: Piece = {
            "type": "piece",
            "choice": self._number,
            "text": text,
            "tokens": self._release(),
            "num_tokens": num_tokens,
            "num_cached": 0,
            "finish": finish,
        }
        if self._stops.matched is not None:
            piece["stopped_by"] = self._stops.matched
        if self._parser is not None:
            self._parse(self._parser, piece)
        return piece

    def _parse(self, parser: AnswerParser, piece: Piece) -> None:
        """Tells its text apart."""
        reasoned = parser.is_reasoning
        parts = [parser.feed(piece["text"])]
        reasoned = reasoned or parser.is_reasoning
        is_over = parser.is_over  # by what was written: one that is cut here is not whole
        if piece["finish"] is not None:
            parts.append(parser.end())
        piece["text"] = "".join(part.content for part in parts)
        reasoning = "".join(part.reasoning for part in parts)
        calls = [delta for part in parts for delta in part.calls]
        if reasoning:
            piece["reasoning"] = reasoning
        if piece["num_tokens"] and (reasoned or reasoning):
            piece["num_reasoning"] = piece["num_tokens"]
        if calls:
            piece["calls"] = calls
        if is_over or (piece["finish"] == "stop" and parser.num_calls):
            piece["finish"] = "tool_calls"

    def _release(self) -> list[TokenItem]:
        """The entries of tokens whose text is at least partly shown."""
        if not self._held:
            return []
        if self._shown >= self._decoded and not self.stopped:
            released, self._held = self._held, []
            return released
        released = [item for item in self._held if item["offset"] < self._shown]
        self._held = self._held[len(released) :]
        return released

    def _hold(self, token: int, logprob: TokenLogprob | None) -> None:
        item: TokenItem = {
            "text": self._tokenizer.readable(token),
            "bytes": self._tokenizer.piece(token),
            "logprob": None if logprob is None else logprob[0],
            "top": None if logprob is None else [self._alternative(*pair) for pair in logprob[1]],
            "offset": self._decoded,
        }
        self._held.append(item)

    def _alternative(self, token: int, logprob: float) -> Alternative:
        return {
            "text": self._tokenizer.readable(token),
            "bytes": self._tokenizer.piece(token),
            "logprob": logprob,
        }

    def _decode(self, tokens: Sequence[int]) -> str:
        if self._parser is not None and self._wanted["skip_special_tokens"]:
            return self._tokenizer.decode_answer(tokens)
        return self._tokenizer.decode(tokens, skip_special=self._wanted["skip_special_tokens"])


def _parser(tokenizer: Tokenizer, wanted: Wanted) -> AnswerParser | None:
    answer = wanted["answer"]
    if answer is None or tokenizer.form is None:
        return None
    begun, tools, single = answer["begun"], answer["tools"], answer["single"]
    return AnswerParser(tokenizer.form, begun, tools, single=single, plain=answer["plain"])
