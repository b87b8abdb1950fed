"""Chat templates that would take for ever, or all memory, or break: limits hold, others answer."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import openai

from tests.chaos.composing import composed, with_template
from tests.chaos.family import MODELS, TENANTS
from tests.chaos.ground import Ground

MODEL = "x"
"""The model whose template is bad; nobody else asks it."""
TEMPLATES: Mapping[str, str] = {
    "never ends": "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999)"
    " %}{% endfor %}{% endfor %}{% endfor %}",
    "makes 1 GB": "{% set line = 'x' * 10000 %}{% for i in range(99999) %}{{ line }}{% endfor %}",
    "recurses": "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    "divides by zero": "{{ 1 // 0 }}",
}
NUM_ASKED = 3
"""Chats with it at the same time. They wait for each other, on full cores 10 s for each that never
ends, and what has waited for 30 s is a 503."""


def chat(ground: Ground, bad: str) -> Mapping[str, Any]:
    """Every chat with it is a 400 that names the model; its completions are right."""
    family = ground.family
    checkpoints = {**{model: f"{model}0" for model in MODELS}, MODEL: "a0"}
    manifest = composed(family.whole, checkpoints)
    template = TEMPLATES[bad]
    changed = with_template(manifest, MODEL, template, family.registry)
    release = family.publish_as(changed, checkpoints)
    ground.serve(release)
    ground.hurt()
    begun = time.monotonic()
    try:
        errors = ground.load.start(_ask(ground)).result(timeout=120)
        seconds = time.monotonic() - begun
        ground.until(ground.endpoint.is_ready, "it is ready")
    finally:
        ground.hurt()
        family.move(family.first)
    assert {error.status_code for error in errors} == {400}, str(errors[0])
    assert all(f"'{MODEL}'" in error.message for error in errors), errors[0].message
    return {"refused after s": seconds, "said": errors[0].message}


async def _ask(ground: Ground) -> list[openai.APIStatusError]:
    async def one(number: int) -> openai.APIStatusError:
        key = ground.family.keys[TENANTS[number % len(TENANTS)]]
        async with ground.load.client(key) as client:
            try:
                await client.chat.completions.create(
                    model=MODEL, messages=[{"role": "user", "content": "hi"}], max_tokens=4
                )
            except openai.APIStatusError as error:
                return error
        raise AssertionError("the chat was answered")

    return await asyncio.gather(*(one(number) for number in range(NUM_ASKED)))
