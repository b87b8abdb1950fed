"""What a request is to the scheduler, and which requests are too long. Queues nothing."""

from serve_app.engine.loading.pooled_releases import LoadedModel
from serve_app.engine.model.packed import PackedModel
from serve_app.engine.request import Request
from serve_app.errors import TooLong, Unsupported
from serve_app.scheduling.errors import NeverFits, PromptTooLong
from serve_app.scheduling.sequence import Sequence


def sequence_of(
    request: Request, model: LoadedModel, packed: PackedModel, arrival: float
) -> Sequence:
    """A sequence of which nothing is computed.

    Raises: TooLong for its model's context; Unsupported for log-probabilities of an input.
    """
    prompt = len(request.prompt)
    if not prompt:
        raise ValueError(f"request {request.id!r}: the prompt is empty")
    if model.beginning and request.prompt_logprobs is not None:
        raise Unsupported(
            f"model {request.model!r}: its encoder reads the prompt, so tokens of it have no "
            "log-probabilities"
        )
    if prompt + request.max_tokens > model.context_length:
        raise TooLong(
            f"model {request.model!r}: {prompt} prompt tokens and {request.max_tokens} more "
            f"exceed the context of {model.context_length}",
            limit=model.context_length,
            prompt_tokens=prompt,
            max_tokens=request.max_tokens,
        )
    return Sequence(
        id=request.id,
        model=(request.release, request.model),
        backbone=model.backbone,
        prompt=(*request.prompt, *model.beginning),
        num_inputs=prompt if model.beginning else 0,
        max_tokens=request.max_tokens,
        tenant=request.tenant,
        weight=request.weight,
        priority=request.priority,
        service_class=request.service_class,
        arrival=arrival,
        stop_token_ids=request.stop_token_ids,
        min_tokens=request.min_tokens,
        keep_prompt_logits=request.prompt_logprobs is not None,
        recompute_at=packed.recompute_length(model.row),
        by_length=packed.is_by_length(model.row),
        deadline=request.deadline,
        chunk_tokens=request.chunk_tokens,
        prompt_at_once=packed.prompt_at_once,
    )


def too_long(
    request: Request, model: LoadedModel, error: NeverFits | PromptTooLong, kv_tokens: int
) -> TooLong:
    """What the scheduler refuses, in the engine's words. kv_tokens: all that can be held."""
    limit, answer = kv_tokens, request.max_tokens
    if isinstance(error, PromptTooLong):
        limit, answer = error.limit - len(model.beginning), 0
    return TooLong(
        f"request {request.id!r}: {error}",
        limit=limit,
        prompt_tokens=len(request.prompt),
        max_tokens=answer,
    )
