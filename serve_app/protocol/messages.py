"""The messages between the HTTP side and the engine side: typed plain dicts. No behaviour."""

from collections.abc import AsyncIterator, Awaitable
from typing import Any, Literal, NotRequired, Protocol, TypedDict

from serve_app.service_class import ServiceClass

Bytes = bytes
"""By another name than that of the fields that hold them."""
ModelKind = Literal["decoder", "encoder-decoder"]
"""What a model does with a prompt: goes on after it, or reads it with its encoder and answers."""


class Wishes(TypedDict):
    """What both kinds of request may ask for. `sampling` holds only what the client set;
    the model's own defaults supply the rest. `service_class`: one that the tenant may have.

    `streamed`: whether a client is written what comes of the answer at once; if not, it may come
    anew. `timeout_s`: how long the answer may take from when the job is sent; None: as long as it
    takes. What is left travels, not a time of day, so clocks need not agree. `seed`: the client's,
    or one that the ingress has drawn, so that the same job gives the same answer again.
    """

    model: str
    service_class: ServiceClass
    priority: int
    n: int
    min_tokens: int
    sampling: dict[str, float]
    seed: int
    logit_bias: dict[int, float]
    stop: list[str]
    stop_token_ids: list[int]
    ignore_eos: bool
    skip_special_tokens: bool
    streamed: bool
    timeout_s: float | None


class Whose(TypedDict):
    """Whose request it is, and what holds for it: the engine knows no table of tenants.

    `prompt_limit`, `answer_limit`: the tenant's longest, in tokens; None: as long as can be.
    `open_choices`, `open_tokens`: the most that may wait and run; None: what all may have.
    """

    tenant: str
    weight: float
    prompt_limit: int | None
    answer_limit: int | None
    open_choices: int | None
    open_tokens: int | None


class Constraint(TypedDict):
    """What the text of an answer must obey, or its content where a chat's answer is told apart.

    `value`: a JSON schema; a regular expression or a grammar; or texts of which it is one, for
    `choice`. `param`: the field in which the client has asked for it.
    """

    kind: Literal["json", "regex", "choice", "grammar"]
    value: Any
    param: str


class Conversation(TypedDict):
    """What a chat is rendered from, and how its answer begins.

    `tools`: as the request has them; none are offered if it is empty. `strict`: the functions whose
    arguments must obey their schema if the model decides to call them. `forced`: the function that
    the answer must call; an empty name for any of them, None if the model decides. `single`: the
    answer ends with its first call. `variables`: of the chat template. `generation_prompt`: whether
    the answer's beginning is rendered. `continues`: the answer goes on where the last message ends.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    strict: list[str]
    forced: str | None
    single: bool
    variables: dict[str, Any]
    generation_prompt: bool
    continues: bool


class Job(Wishes, Whose):
    """One request, checked for its form. `prompts` of a completion, each a text or packed tokens
    (`token_ids`), or the `chat`.

    Choice `i` of prompt `p` has the number `p * n + i`. `user`: whose conversation it is, as the
    tenant says; it stays on its side of a canary. `release`: the one that must answer, if the job
    was accepted before. `request`: by which the client and the ingress's log know it.
    """

    id: str
    request: str
    user: str | None
    release: str | None
    prompts: list[str | bytes]
    chat: Conversation | None
    constraint: Constraint | None
    max_tokens: int | None
    logprobs: int | None
    echo: bool


class Alternative(TypedDict):
    """Holds no list, so Python does not look through millions of them for garbage."""

    text: str
    bytes: Bytes
    logprob: float


class TokenItem(TypedDict):
    """One token of an answer (or of an echoed prompt) with its log-probability.

    `offset`: where its text begins, in characters of the choice's whole text. `logprob` and `top`
    are None for the first token of an echoed prompt.
    """

    text: str
    bytes: Bytes
    logprob: float | None
    top: list[Alternative] | None
    offset: int


class Accepted(TypedDict):
    """The first item of a job that will be answered. `model`: that answers, of `release`; the job
    may have named an alias of it. `answer_tokens`: the most that all choices together may have.
    """

    type: Literal["accepted"]
    model: str
    release: str
    prompt_tokens: list[int]
    answer_tokens: int


class CallDelta(TypedDict):
    """More of a tool call. `index`: of the call in its choice. `name`: of the function, where the
    call begins; else None. `arguments`: more of them, as JSON.
    """

    index: int
    name: str | None
    arguments: str


class Piece(TypedDict):
    """More of one choice. `reasoning`, `calls`: of a chat whose model's answers are parsed; `text`
    is its content then. `num_tokens`: generated tokens that this piece adds to the usage;
    `num_reasoning`: how many of them are of reasoning or its markers, where any are; `num_cached`:
    tokens of the prompt that were already computed, in one piece of one choice. `queued_s`: in a
    choice's first piece with a token, how long it waited before anything was computed.
    `stopped_by`: the stop string that has ended it.
    """

    type: Literal["piece"]
    choice: int
    text: str
    reasoning: NotRequired[str]
    calls: NotRequired[list[CallDelta]]
    tokens: list[TokenItem]
    num_tokens: int
    num_reasoning: NotRequired[int]
    num_cached: int
    queued_s: NotRequired[float]
    finish: str | None
    stopped_by: NotRequired[str]


class ErrorItem(TypedDict):
    """Comes instead of the first item, or midway; nothing follows.

    `retry_after_s`: when the same request may go, where that is known.
    """

    type: Literal["error"]
    code: str
    message: str
    param: str | None
    retry_after_s: NotRequired[float]


class Again(TypedDict):
    """What has come of an answer is void, as another engine makes it: it comes anew from here on.
    Never comes on a job that is streamed.
    """

    type: Literal["again"]


Item = Accepted | Piece | ErrorItem | Again


class ModelCard(TypedDict):
    """`root`: the model that answers to `id`, which is itself or an alias. `max_prompt_len`: less
    than the context where one step must compute a prompt. `response_template`: by what its answers
    are parsed, if they are.
    """

    id: str
    root: str
    kind: ModelKind
    created: int
    owned_by: str
    max_model_len: int
    max_prompt_len: int
    response_template: str | None
    release: str


class Models(TypedDict):
    """`weights`: 256 numbers. In tokens of each of the models, a text is at least as long as those
    of its bytes in UTF-8 add up to, less one. None if that is not known.
    """

    release: str | None
    models: list[ModelCard]
    weights: list[float] | None


class TokenizeJob(TypedDict):
    tenant: str
    model: str
    prompt: str | None
    chat: Conversation | None
    add_special_tokens: bool


class Tokens(TypedDict):
    type: Literal["tokens"]
    tokens: list[int]
    max_model_len: int


class DetokenizeJob(TypedDict):
    """`tokens`: packed, see `token_ids`."""

    tenant: str
    model: str
    tokens: bytes


class Text(TypedDict):
    type: Literal["text"]
    text: str


class Status(TypedDict):
    """`healthy`: the engine steps. `release`: the one that answers new requests, if any.

    `draining`: whoever says this is about to end, and takes no new requests. `start_s`: how long
    the engine's start took, until it served, without what it waited for a release to be published.
    """

    healthy: bool
    draining: NotRequired[bool]
    start_s: NotRequired[float]
    release: str | None
    detail: dict[str, Any]


class AdminFacts(TypedDict):
    """What one replica tells those who run it. Each section is plain and may grow."""

    replica: str
    releases: list[dict[str, Any]]
    channels: dict[str, Any]
    aliases: dict[str, Any]
    residency: dict[str, Any]
    queue: dict[str, Any]


AdminSection = Literal["releases", "channels", "aliases", "residency", "queue"]
AdminAction = Literal["load", "unload", "pin", "unpin"]


class AdminDone(TypedDict):
    """One replica has done what was asked, or begun it: a load takes its time."""

    type: Literal["done"]
    replica: str
    release: str


class Items(Protocol):
    """The items of one job, each time all that have come; for one reader. Any async generator is.

    Closing it gives the job up. It must be closed, even if nothing was read.
    """

    def __aiter__(self) -> AsyncIterator[list[Item]]: ...

    def __anext__(self) -> Awaitable[list[Item]]: ...

    def aclose(self) -> Awaitable[None]: ...


class EngineClient(Protocol):
    """The engine as the HTTP side sees it: through a Ray handle, or in the same process.

    `generate` gives one `Accepted` or `ErrorItem` alone at first. A client's mistake raises
    nothing.
    """

    def generate(self, job: Job) -> Items: ...

    async def tokenize(self, job: TokenizeJob) -> Tokens | ErrorItem: ...

    async def detokenize(self, job: DetokenizeJob) -> Text | ErrorItem: ...

    async def models(self, tenant: str) -> Models:
        """Those that a tenant may ask for, whatever its key allows."""
        ...

    async def status(self) -> Status: ...

    async def metrics(self) -> str: ...

    async def admin(self) -> list[AdminFacts]:
        """Of every replica."""
        ...

    async def change(self, model: str, action: AdminAction) -> list[AdminDone | ErrorItem]:
        """Has every replica do it; what each says. It is in memory alone, and gone with them."""
        ...
