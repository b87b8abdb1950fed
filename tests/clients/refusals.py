"""What clients may ask for and do not get: which error they see, and why. Data alone."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """error: the client's own class.   says: part of its message.   reason: for people."""

    client: str
    call: str
    error: str
    says: str
    reason: str


_TEXT_ALONE = "models read and write text alone"
_NO_TOOLS_OF_ITS_OWN = "tools are run by the client, not by the endpoint"
_JSON_ALONE = "tools are functions whose arguments are JSON"
_NOTHING_IS_KEPT = "nothing of a request is kept once it is answered"
_NO_EMBEDDINGS = "models generate text; there are no embeddings"
_BAD_REQUEST, _NOT_FOUND = "openai.BadRequestError", "openai.NotFoundError"

REFUSALS = (
    Refusal(
        "anthropic_messages",
        "a picture is sent",
        "anthropic.BadRequestError",
        "image",
        _TEXT_ALONE,
    ),
    Refusal(
        "anthropic_messages",
        "the web is to be searched",
        "anthropic.BadRequestError",
        "web_search",
        _NO_TOOLS_OF_ITS_OWN,
    ),
    Refusal(
        "anthropic_messages",
        "batches are wanted",
        "anthropic.NotFoundError",
        "/v1/messages/batches",
        _NOTHING_IS_KEPT,
    ),
    Refusal(
        "langchain_chats", "embeddings are wanted", _NOT_FOUND, "/v1/embeddings", _NO_EMBEDDINGS
    ),
    Refusal(
        "litellm_calls",
        "embeddings are wanted",
        "litellm.NotFoundError",
        "/v1/embeddings",
        _NO_EMBEDDINGS,
    ),
    Refusal("openai_chats", "a picture is sent", _BAD_REQUEST, "parts of type", _TEXT_ALONE),
    Refusal("openai_chats", "speech is wanted", _BAD_REQUEST, "audio", _TEXT_ALONE),
    Refusal(
        "openai_chats",
        "the web is to be searched",
        _BAD_REQUEST,
        "web_search_options",
        _NO_TOOLS_OF_ITS_OWN,
    ),
    Refusal(
        "openai_chats",
        "a tool without a schema is offered",
        _BAD_REQUEST,
        "tools[0].type",
        _JSON_ALONE,
    ),
    Refusal("openai_chats", "embeddings are wanted", _NOT_FOUND, "/v1/embeddings", _NO_EMBEDDINGS),
    Refusal(
        "openai_completions",
        "text is to be filled in",
        _BAD_REQUEST,
        "suffix",
        "models that write on were not trained to fill in",
    ),
    Refusal(
        "openai_completions",
        "the best of more is wanted",
        _BAD_REQUEST,
        "best_of",
        "choices are not ranked: ask for `n`, with log-probabilities",
    ),
    Refusal(
        "openai_responses",
        "a response that was stored goes on",
        _BAD_REQUEST,
        "previous_response_id",
        _NOTHING_IS_KEPT,
    ),
    Refusal(
        "openai_responses",
        "a response is wanted again",
        _NOT_FOUND,
        "/v1/responses/resp_1",
        _NOTHING_IS_KEPT,
    ),
    Refusal(
        "openai_responses",
        "a response is made in the background",
        _BAD_REQUEST,
        "background",
        _NOTHING_IS_KEPT,
    ),
    Refusal(
        "openai_responses",
        "the web is to be searched",
        _BAD_REQUEST,
        "tools[0].type",
        _NO_TOOLS_OF_ITS_OWN,
    ),
    Refusal("openai_responses", "a picture is sent", _BAD_REQUEST, "input_image", _TEXT_ALONE),
)
