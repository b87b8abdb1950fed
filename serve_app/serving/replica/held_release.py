"""One release as its replica holds it: what is known of its models' texts, and who uses it."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from representation.text_fields import text_fields
from serve_app.errors import BadRelease
from serve_app.grammar.compiling import Compiler
from serve_app.grammar.vocabulary import Vocabulary
from serve_app.serving.replica.defaults import ModelDefaults
from serve_app.serving.replica.dependencies import Loop, OpenedRelease
from serve_app.serving.replica.prepare import ServedModel
from serve_app.serving.replica.verifying import Verification
from serve_app.text.errors import TextError
from serve_app.text.process.text_client import TextClient
from serve_app.text.process.text_messages import TokenizerFacts


@dataclass(frozen=True, slots=True)
class Texts:
    """What is known of the texts of a release's models. tokens: of those that grammars can hold."""

    facts: Mapping[str, TokenizerFacts]
    tokens: Mapping[str, Vocabulary]


async def read_texts(opened: OpenedRelease, text: TextClient, compiler: Compiler) -> Texts:
    """Has the tokenizers read. Raises BadRelease if one cannot be.

    A vocabulary that no other release has is made at once, as that holds the interpreter.
    """
    release, models = opened.source.id, sorted(opened.source.models)
    try:
        facts = await text.load(release, models, opened.write_tokenizer)
    except TextError as error:
        raise BadRelease(f"release {release}, {error}") from error
    tokens = {}
    for name, (_, _, _, digest, _) in facts.items():
        if digest is not None:
            ask = partial(text.vocabulary, (release, name))
            tokens[name] = await compiler.vocabulary(digest, ask)
    return Texts(facts, tokens)


class HeldRelease:
    """A release in the engine, and how many requests hold it. created: Unix seconds.

    texts: of each model. Make it on a thread: it asks the engine, which answers
    between two steps.
    """

    def __init__(self, opened: OpenedRelease, texts: "Texts", loop: Loop) -> None:
        self.id = opened.source.id
        self.created = opened.created
        self.source = opened.source
        self.models = {
            name: _model(opened, loop, name, texts.facts[name], texts.tokens.get(name))
            for name in sorted(opened.source.models)
        }
        self.verification = Verification(opened.source, self.models.values())
        self.num_holders = 0
        self.idle = asyncio.Event()
        self.idle.set()

    def hold(self) -> None:
        self.num_holders += 1
        self.idle.clear()

    def let_go(self) -> None:
        self.num_holders -= 1
        if self.num_holders == 0:
            self.idle.set()


def _model(
    opened: OpenedRelease,
    loop: Loop,
    name: str,
    text: TokenizerFacts,
    tokens: Vocabulary | None,
) -> ServedModel:
    facts, (end_token, _, response_template, _, weights) = opened.source.models[name], text
    return ServedModel(
        name=name,
        release=opened.source.id,
        kind="encoder-decoder" if facts.config.get("is_encoder_decoder") else "decoder",
        defaults=ModelDefaults.of(facts.config, facts.generation_config, end_token),
        vocabulary=int(text_fields(facts.config)["vocab_size"]),
        context_length=loop.context_length(opened.source.id, name),
        longest_prompt=loop.longest_prompt(opened.source.id, name),
        response_template=response_template,
        tokens=tokens,
        weights=weights,
    )
