"""Continuous batching of transformers on one model: the arm `transformers`."""

import logging
import threading
from typing import Any

import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

from representation.architecture.config import config_of
from serve_app.bench.arms.arm import Ground
from serve_app.bench.requests.open_loop import Notes
from serve_app.bench.requests.workload import TimedJob
from serve_app.engine.model.facts import resolve_dtype
from serve_app.engine.source import ReleaseSource

PAGE_SIZE = 32
"""Tokens in a page of its cache. Small, because on the CPU a mask covers every page."""
CUDA_PAGE_SIZE = 256
"""What flash attention needs."""
ATTENTION, EXPERTS = "sdpa", "grouped_mm"
"""The fastest on two CPU cores. On CUDA it chooses flash attention itself if available."""
POLL_S = 0.2


class Batching:
    """A stock model and its continuous batching manager, in a thread of this process."""

    def __init__(self, ground: Ground, source: ReleaseSource) -> None:
        """source: a release with nothing merged; serves the ground's only model."""
        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)
        (name,) = ground.models
        self._model = stock_model(source, name, ground)
        self._manager = self._model.init_continuous_batching(
            GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0),
            self._settings(ground),
        )
        if ground.engine.device != "cpu":
            self._manager.warmup()
        self._jobs: dict[str, tuple[int, Notes]] = {}
        self._closing = False
        self._manager.start()
        self._thread = threading.Thread(target=self._collect, name="transformers", daemon=True)
        self._thread.start()

    @staticmethod
    def _settings(ground: Ground) -> ContinuousBatchingConfig:
        """On the CPU the fastest settings; on CUDA its own.

        Its cache has whole pages for as many sequences as the ground has tokens for.
        """
        at_once = ground.engine.max_sequences
        on_cpu = ground.engine.device == "cpu"
        page_size = PAGE_SIZE if on_cpu else CUDA_PAGE_SIZE
        own: dict[str, Any] = {
            "max_batch_tokens": ground.engine.step_tokens,
            "use_async_batching": False,
        }
        return ContinuousBatchingConfig(
            page_size=page_size,
            num_blocks=at_once * -(-ground.sequence_tokens // page_size),
            max_requests_per_batch=at_once,
            allow_block_sharing=False,
            **(own if on_cpu else {}),
        )

    @property
    def device_bytes(self) -> int:
        weights: int = sum(t.nbytes for t in (*self._model.parameters(), *self._model.buffers()))
        processor = self._manager.batch_processor
        cache: int = processor.cache.cache_tensor.nbytes if processor is not None else 0
        return weights + cache

    @property
    def facts(self) -> dict[str, float]:
        return {}

    def submit(self, index: int, job: TimedJob, notes: Notes) -> None:
        key = str(index)
        self._jobs[key] = index, notes
        added = self._manager.add_request(
            list(job.prompt), key, job.max_tokens, record_timestamps=True
        )
        if added is None:
            notes.ended(index, "transformers takes no more requests")

    def close(self) -> None:
        self._closing = True
        self._manager.stop(block=True, hard_stop=True)
        self._thread.join()
        self._manager.destroy()

    def _collect(self) -> None:
        """Note every finished answer, with the times that the manager recorded."""
        while not self._closing:
            result = self._manager.get_result(timeout=POLL_S)
            if result is None:
                if not self._manager.is_running():
                    self._give_up()
                    return
                continue
            index, notes = self._jobs.pop(result.request_id)
            if result.error is None:
                notes.queued(index, result.lifespan[0] - result.created_time)
                notes.answered(
                    index,
                    first=result.timestamps[0],
                    last=result.timestamps[-1],
                    tokens=result.generated_tokens,
                )
            notes.ended(index, result.error)

    def _give_up(self) -> None:
        fault = self._manager.background_thread_status.fatal_error
        for index, notes in self._jobs.values():
            notes.ended(index, f"transformers stopped: {fault}")


def stock_model(source: ReleaseSource, name: str, ground: Ground) -> Any:
    """A model of a release without merging, as transformers builds it."""
    model: Any = AutoModelForCausalLM.from_config(
        config_of(source.models[name].config),
        dtype=resolve_dtype(ground.engine.dtype, source.dtype),
        attn_implementation=ATTENTION,
    )
    model = model.to(ground.engine.device).eval()
    model.set_experts_implementation(EXPERTS)
    own = model.state_dict(keep_vars=True)
    with torch.no_grad():
        for tensor_name, tensor in source.read_backbone(name):
            own[tensor_name].copy_(tensor)
        for number, layer in enumerate(source.layers):
            experts = dict(model.get_submodule(layer.module).named_parameters(recurse=False))
            for index, slot in enumerate(source.models[name].expert_map[number]):
                for parameter, tensor in source.read_slot(number, slot).items():
                    experts[parameter][index].copy_(tensor)
    return model
