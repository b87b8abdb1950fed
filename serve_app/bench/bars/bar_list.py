"""The bars: their limits, and what each says. Measures nothing."""

import operator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bar:
    """limit: the largest value allowed, or the smallest if `at_least`."""

    name: str
    limit: float
    says: str
    at_least: bool = False

    def holds(self, value: float) -> bool:
        return operator.ge(value, self.limit) if self.at_least else value <= self.limit


BARS: dict[str, Bar] = {
    bar.name: bar
    for bar in (
        Bar(
            "packed_over_sequential",
            0.65,
            "one decode step of four models ÷ a step for each model in turn",
        ),
        Bar(
            "packed_over_single",
            1.6,
            "one decode step of four models ÷ one model with as many sequences",
        ),
        Bar(
            "four_bits_over_dense",
            0.7,
            "one decode step of 16 sequences, slots of 4 bits ÷ dense slots",
        ),
        Bar(
            "four_bits_alone_over_dense",
            0.6,
            "the same, of one sequence",
        ),
        Bar(
            "four_bits_products_over_dense",
            0.5,
            "the products of the experts in a step of 16 sequences, slots of 4 bits ÷ dense slots",
        ),
        Bar(
            "four_bits_products_alone_over_dense",
            0.4,
            "the same, of one sequence",
        ),
        Bar(
            "one_size_over_dense",
            1.2,
            "one decode step of four models, slots of 8 and residuals of 2 bits ÷ dense slots",
        ),
        Bar(
            "codes_read_over_copied",
            0.5,
            "bytes/s of 4-bit codes multiplied by one row ÷ bytes/s of copying them",
            at_least=True,
        ),
        Bar(
            "launches_a_layer",
            6,
            "calls of compiled code for the experts of a layer, the most of 1 and 12 formats",
        ),
        Bar(
            "engine_over_transformers",
            1.2,
            "tokens/s of one model, 16 requests of 64 + 64 ÷ batching in transformers",
            at_least=True,
        ),
        Bar(
            "outside_forward_share",
            0.10,
            "share of a decode step outside the forward pass",
        ),
        Bar(
            "outside_forward_ms",
            3.0,
            "processor ms of a decode step of 256 sequences outside the forward pass",
        ),
        Bar(
            "http_over_engine",
            0.85,
            "tokens/s of 16 HTTP streams ÷ calling the engine directly",
            at_least=True,
        ),
        Bar(
            "http_us_at_16_streams",
            150.0,
            "processor µs for each streamed token, all processes but engine and client",
        ),
        Bar(
            "http_us_at_64_streams",
            60.0,
            "the same, of 64 streams",
        ),
        Bar(
            "cold_over_resident_ttft",
            1.5,
            "time to first token, backbone not loaded ÷ loaded, idle engine",
        ),
        Bar(
            "running_tpot_during_load",
            1.15,
            "time per token of a running model while a backbone loads ÷ otherwise",
        ),
        Bar(
            "pool_over_isolated_turnaround",
            0.8,
            "mean turnaround of the pool ÷ isolated processes, at 60 % of what those can take",
        ),
        Bar(
            "scaling",
            1.0,
            "step time outside products, time ratio ÷ size ratio: places 16–64, experts 8–64",
        ),
        Bar(
            "hybrid_packed_over_sequential",
            0.65,
            "the first of all, of models with recurrent mixers (qwen3-next)",
        ),
        Bar(
            "state_update_over_copied",
            3.0,
            "reading and writing the states of sequences in such a step ÷ copying them once",
        ),
        Bar(
            "encoders_packed_over_sequential",
            0.65,
            "answers of four encoder–decoders at once ÷ one model after another (switch)",
        ),
        Bar(
            "encoders_over_transformers",
            1.5,
            "tokens/s of one of them, 16 requests of 64 + 48 ÷ generate() of transformers",
            at_least=True,
        ),
        Bar(
            "consolidate_over_read",
            300.0,
            "consolidating two models, all stages ÷ reading their bytes once at 3 GB/s",
        ),
    )
}
"""By name, in the order in which they are shown."""
