"""Which form of attention a layer gets: the first that proves equal to the plain one here."""

import logging
from collections.abc import Callable, Sequence
from functools import partial

import torch

from representation.architecture.attention import AttentionShape
from serve_app.engine.attention.flashinfer import flashinfer_form, flashinfer_needs
from serve_app.engine.attention.form import AttentionForm, AttentionNeeds, Call
from serve_app.engine.attention.gather import Gather
from serve_app.engine.attention.native import native_form
from serve_app.engine.attention.store import KVLayer
from serve_app.engine.attention.varlen import varlen_form
from serve_app.engine.device.trial import attention_difference, first_equal
from serve_app.engine.step.view import ViewBuilder, outputs_of
from serve_app.scheduling.ledgers.blocks import BLOCKS
from serve_app.scheduling.plan import Chunk

logger = logging.getLogger(__name__)
PROBE_CHUNKS = ((1, 40), (5, 5), (1, 90), (18, 33))
"""For each sequence of the trial: its tokens in the step, and in all."""
PROBE_BLOCKS = 40
PROBE_WINDOW = 24
"""Windows are cut to this length, which is shorter than some of the sequences."""

Makers = Sequence[tuple[str, Callable[[], AttentionForm]]]
"""Forms other than the plain one, the preferred first. Making one raises if it cannot work."""


def makers(device: torch.device) -> Makers:
    """The forms for a device."""
    if device.type == "cpu":
        return (("native", native_form),)
    return ("flashinfer", partial(flashinfer_form, device)), ("varlen", varlen_form)


def attention_needs(device: torch.device) -> AttentionNeeds:
    """The most bytes that the forms for a device may keep there."""
    return flashinfer_needs() if device.type == "cuda" else AttentionNeeds()


class FormChooser:
    """Chooses once for all layers that are alike."""

    def __init__(
        self, makers: Makers, *, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._makers = dict(makers)
        self._block_size = block_size
        self._dtype = dtype
        self._device = device
        self.plain = Gather()
        self._made: dict[str, AttentionForm | None] = {}
        self._chosen: dict[tuple[AttentionShape, int | None, bool], AttentionForm] = {}

    def form(
        self, shape: AttentionShape, window: int | None, *, sinks: bool, biased: bool = False
    ) -> AttentionForm:
        """The form for a layer. Warns of each that differs from the plain one.

        biased: whether its scores have a bias, which only the plain form adds.
        """
        if biased:
            return self.plain
        key = (shape, window, sinks)
        if key not in self._chosen:
            self._chosen[key] = self._choose(shape, window, sinks)
        return self._chosen[key]

    def _choose(self, shape: AttentionShape, window: int | None, sinks: bool) -> AttentionForm:
        def refused(form: AttentionForm, why: str) -> None:
            logger.warning(
                "attention of %s: the form %r is not used, since %s", shape, form.name, why
            )

        made = (form for form in map(self._make, self._makers) if form is not None)
        tried = partial(self._difference, shape=shape, window=window, sinks=sinks)
        return first_equal(made, tried, refused) or self.plain

    def _make(self, name: str) -> AttentionForm | None:
        if name not in self._made:
            try:
                self._made[name] = self._makers[name]()
            except (ImportError, ValueError, RuntimeError) as error:
                logger.info("attention: the form %r is not available: %s", name, error)
                self._made[name] = None
        return self._made[name]

    def _difference(
        self, form: AttentionForm, shape: AttentionShape, window: int | None, sinks: bool
    ) -> str | None:
        """How the form differs from the plain one on random input; None if it does not."""
        if window is not None:
            window = min(window, PROBE_WINDOW)
        for chunks in (PROBE_CHUNKS, tuple((1, total) for _, total in PROBE_CHUNKS)):
            call = probe(
                shape, window, chunks, self._block_size, self._dtype, self._device, sinks=sinks
            )
            expected = self.plain.attend(call)
            try:
                got = form.attend(call)
            except (AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError) as e:
                return f"it fails: {e}"
            found = attention_difference(got, expected, self.plain.name)
            if found is not None:
                return found
        return None


def probe(
    shape: AttentionShape,
    window: int | None,
    chunks: Sequence[tuple[int, int]],
    block_size: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    sinks: bool,
) -> Call:
    """A layer's attention on random numbers. sequences: (tokens in the step, in all) of each."""
    generator = torch.Generator().manual_seed(0)

    def random(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator).to(device, dtype)

    free = iter(torch.randperm(PROBE_BLOCKS, generator=generator).tolist())
    steps = [
        _chunk(number, total - count, count, [next(free) for _ in range(-(-total // block_size))])
        for number, (count, total) in enumerate(chunks)
    ]
    views = ViewBuilder(1, block_size, device, groups=True, paging=True)
    store = KVLayer(
        shape, num_blocks=PROBE_BLOCKS, block_size=block_size, dtype=dtype, device=device
    )
    store.keys.copy_(random(*store.keys.shape))
    store.values.copy_(random(*store.values.shape))
    num_tokens = sum(count for count, _ in chunks)
    query = random(num_tokens, shape.query_heads, shape.key_dim)
    return Call(
        query=query,
        store=store,
        view=views.build(steps, [0] * len(steps), outputs_of(steps)),
        window=window,
        scaling=0.7 * shape.key_dim**-0.5,
        sinks=random(*query.shape[:2]) if sinks else None,
        softcap=shape.softcap,
    )


def _chunk(number: int, start: int, count: int, blocks: Sequence[int]) -> Chunk:
    return Chunk(
        sequence=str(number),
        model=("", ""),
        place=0,
        start=start,
        tokens=(0,) * count,
        pending=False,
        held={BLOCKS: tuple(blocks)},
        prompt_len=start + count,
        forward_len=start + count,
        samples=False,
        keep_prompt_logits=False,
        num_generated=0,
        by_length=False,
    )
