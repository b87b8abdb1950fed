"""What an operator sets for serving. Other code checks requests, beyond `RequestLimits`."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    InstanceOf,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from serve_app.engine.config import SETTINGS, EngineConfig
from serve_app.logs.lines import LogFormat
from serve_app.page_origin import origin
from serve_app.text.template_limits import TemplateLimits


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RequestLimits(_Strict):
    """Caps on one request. A request beyond one is refused with 400 and the cap in the message."""

    body_bytes: int = Field(default=16 * 2**20, ge=1)
    n: int = Field(default=16, ge=1)
    prompts: int = Field(default=256, ge=1)
    choices: int = Field(default=512, ge=1)
    """Choices of one request: prompts times n."""
    prompt_tokens: int | None = Field(default=None, ge=1)
    """Longest prompt; None: the context length of the model."""
    text_tokens: int = Field(default=2**18, ge=1)
    """Most tokens for `/tokenize` and `/detokenize`, where a model's context is not longer."""
    stop: int = Field(default=4, ge=0)
    stop_chars: int = Field(default=256, ge=1)
    stop_token_ids: int = Field(default=64, ge=0)
    logit_bias: int = Field(default=300, ge=0)
    logprobs: int = Field(default=20, ge=0)
    messages: int = Field(default=4096, ge=1)
    tools: int = Field(default=128, ge=1)
    timeout_s: float = Field(default=3600.0, gt=0, allow_inf_nan=False)
    """Longest time that a request may give itself."""


class MetricsConfig(_Strict):
    """Bounds of the metrics."""

    max_tenants: int = Field(default=100, ge=1)
    """Tenants with series of their own: the first that ask. The rest share those of `other`."""


class ServeConfig(_Strict):
    """One endpoint: what it serves, with which engine, within which bounds.

    Times are in seconds. `registry` is a directory or any fsspec address. In files and the
    environment, the engine's settings are on the same level: `{family: main, device: cuda}`.

    Raises: ConfigError for a setting of the engine, pydantic's ValidationError for others.
    """

    registry: str = Field(default="./registry", min_length=1)
    family: str = Field(default="default", min_length=1)
    engine: InstanceOf[EngineConfig] = EngineConfig()
    keys: str | None = Field(default=None, min_length=1)
    """The keys file, a path or an fsspec address; without one, there are no tenants."""
    usage: str | None = Field(default=None, min_length=1)
    """Where usage records are written: a directory or an fsspec address; without one, nowhere."""
    insecure_no_keys: bool = False
    """Answer anybody who can reach the endpoint. Without this, keys are needed."""
    drain_s: float = Field(default=30.0, ge=0, allow_inf_nan=False)
    """How long running answers may take to end once the endpoint is told to end: the longest
    request that is never cut. The graces of a cluster follow from it (`serving/graces.py`)."""
    allow_origin: tuple[Annotated[str, AfterValidator(origin)], ...] = ()
    """Origins of web pages whose scripts may use the endpoint (CORS); `*` is any page."""
    docs: bool = False
    """Answer `/docs` with a page about the routes, to anybody who can reach the endpoint."""
    keep_alive_s: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """A stream that has nothing to say for so long sends a comment, so that nobody closes it."""
    max_open_choices: int = Field(default=1024, ge=1)
    """Choices running and waiting in one replica, of all tenants; a request beyond gets 429. With
    a keys file, a tenant may have half of what the others leave."""
    max_open_tokens: int = Field(default=4 * 2**20, ge=1)
    """The same, for the tokens of their prompts."""
    poll_s: float = Field(default=1.0, gt=0, le=5.0)
    """How often the channel is read."""
    reload: Literal["overlap", "drain"] = "overlap"
    """What to do with a next release that does not fit beside the served one: refuse it, or let
    running requests end while new ones wait, and load it then."""
    stall_s: float = Field(default=120.0, gt=0)
    """An engine whose loop has not turned for this long is unhealthy; a step is one turn."""
    unserved_s: float = Field(default=120.0, gt=0)
    """An engine that has served, and has had nothing to serve for this long, is unhealthy."""
    response_template: str | None = Field(default=None, min_length=1)
    """A JSON file that says how all models write their answers. Without one, each model's own
    response template is used, or the one of expertpool's that fits its chat template."""
    template_s: float = Field(default=TemplateLimits().seconds, gt=0, le=5)
    """Processor time that a chat template may take for one request."""
    template_bytes: int = Field(default=TemplateLimits().memory, ge=2**20)
    """Memory that it may take. It may write a quarter as many characters."""
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """Where each replica's own metrics are, at the address of its Ray node; 0 is any port that is
    free, None is none. Nobody needs a key there."""
    ray_metrics: bool = False
    """Carry sums of a replica's metrics into Ray's own once a second."""
    log_level: Literal["info", "warning", "error"] = "info"
    """The least that is logged. What libraries log is not affected."""
    log_format: LogFormat = "text"
    """How lines are written: for people, or as an object of JSON each, for collectors."""
    log_output: str | None = Field(default=None, min_length=1)
    """A file or a pipe that gets all lines too. By default there is one on Kubernetes with `json`:
    the container's own output, which is not that of Ray's workers."""
    limits: RequestLimits = RequestLimits()
    metrics: MetricsConfig = MetricsConfig()

    @classmethod
    def names(cls) -> list[str]:
        """The names of all settings with a single value, including the engine's."""
        others = ("engine", "allow_origin", "limits", "metrics")
        return [*(name for name in cls.model_fields if name not in others), *SETTINGS]

    @model_validator(mode="after")
    def _keys_or_not(self) -> Self:
        if self.keys is not None and self.insecure_no_keys:
            raise ValueError("give either keys or insecure_no_keys, not both")
        return self

    @model_validator(mode="before")
    @classmethod
    def _gather_engine(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or "engine" in given:
            return given
        engine = {name: value for name, value in given.items() if name in SETTINGS}
        others = {name: value for name, value in given.items() if name not in SETTINGS}
        return {**others, "engine": EngineConfig(**engine)}

    @model_serializer(mode="wrap")
    def _spread_engine(self, as_usual: SerializerFunctionWrapHandler) -> dict[str, Any]:
        spread: dict[str, Any] = as_usual(self)
        del spread["engine"]
        return spread | asdict(self.engine)


class UserConfig(_Strict):
    """What is served now: a channel to follow, or one pinned release."""

    channel: str | None = Field(default=None, min_length=1)
    release: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.channel is None) == (self.release is None):
            raise ValueError("give either a channel or a release, not both")
        return self
