"""What an operator sets. What a request may ask is decided elsewhere, beyond `RequestLimits`."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


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
    stop: int = Field(default=4, ge=0)
    stop_chars: int = Field(default=256, ge=1)
    stop_token_ids: int = Field(default=64, ge=0)
    logit_bias: int = Field(default=300, ge=0)
    logprobs: int = Field(default=20, ge=0)
    messages: int = Field(default=4096, ge=1)


class ServeConfig(_Strict):
    """One endpoint: what it serves, on which device, within which bounds.

    Bytes are bytes, times are seconds. `registry` is a directory or any fsspec address.
    """

    registry: str = Field(default="./registry", min_length=1)
    family: str = Field(default="default", min_length=1)

    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device_memory: int | None = Field(default=None, ge=1)
    host_memory: int | None = Field(default=None, ge=1)
    """Most host memory for copies of backbones; None: as much as all of them take."""
    kv_tokens: int | None = Field(default=None, ge=1)
    """Size of the KV store in tokens; None: what memory allows."""
    num_places: int | None = Field(default=None, ge=1)
    """Most backbones on the device at once; None: what memory allows."""
    max_tokens: int = Field(default=512, ge=1)
    """Tokens of one step, of all sequences together."""
    max_sequences: int = Field(default=64, ge=1)
    """Sequences that run at the same time; more wait."""
    max_model_wait_s: float = Field(default=5.0, gt=0)
    """Longest wait of a model that is not resident while others are served."""
    prefix_cache: bool = True
    """Keep keys and values of what prompts begin with, for later ones of their tenant and model."""
    cuda_graphs: bool = True
    """On CUDA record steps that decode, and run them again."""

    max_open_choices: int = Field(default=1024, ge=1)
    """Choices running and waiting in one replica; a request beyond is answered 429."""
    poll_s: float = Field(default=1.0, gt=0, le=5.0)
    """How often the channel is read."""
    stall_s: float = Field(default=120.0, gt=0)
    """An engine that has not turned for so long is unhealthy; a step is one turn."""
    limits: RequestLimits = RequestLimits()


class UserConfig(_Strict):
    """What is served now: a channel that is followed, or one release, pinned."""

    channel: str | None = Field(default=None, min_length=1)
    release: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.channel is None) == (self.release is None):
            raise ValueError("give either a channel or a release, and not both")
        return self
