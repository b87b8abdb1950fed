"""How long a stream stops while somebody sends a long request, and what memory that leaves.

A whole endpoint, one stream, and one long request after the other: `python -m tests.stalls`. A gap
is the longest time between two parts of the stream while the request is sent and answered and a
second after, less the longest before it. As a busy machine makes gaps of its own, each process also
tells its longest callback of the event loop, collection of garbage, and wait for its interpreter,
all in processor time (see `probe`). Memory (RSS) is that of each process two seconds after, less
that before.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from serve_app.bench.http.processor_time import ENGINE, INGRESS, PROC, TEXT
from tests.chaos.endpoint import ROOT, Endpoint
from tests.serving.family import FAMILY, TinyFamily
from tests.stalls.long_requests import CONTEXT, REQUESTS
from tests.stalls.running_stream import RunningStream
from tests.stalls.sending import sent
from tests.stalls.telling import KINDS, Told, told
from tests.support.checkpoints import write_checkpoint

_PARTS = (INGRESS, ENGINE, TEXT)
_VOCABULARY = 4096
_QUIET_S = 1.0
_AFTER_S = 2.0
_PAGE = os.sysconf("SC_PAGE_SIZE")
_CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls"
    " }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write_tokenizer(directory: Path) -> None:
    """Byte-level, with words of this project's pages, so that a token has several bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train([str(file) for file in sorted((ROOT / "docs").glob("*.md"))], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.chat_template = _CHAT_TEMPLATE
    fast.save_pretrained(directory)


def options(place: Path) -> list[str]:
    """Makes a small family there. -> what serves it"""
    family = TinyFamily(place)
    shape: dict[str, Any] = {"vocab_size": _VOCABULARY, "max_position_embeddings": CONTEXT}
    write_checkpoint(place / "a", "mixtral", 0, **shape)
    write_tokenizer(place / "a")
    family.publish(["a"], channel="stable")
    return ["--family", FAMILY, "--registry", family.url, "--kv-tokens", str(2 * CONTEXT)]


def rss(endpoint: Endpoint) -> dict[str, float]:
    """MiB of each part, with its children."""
    found: dict[str, float] = defaultdict(float)
    for pid, part in endpoint.processes().items():
        try:
            pages = int((PROC / str(pid) / "statm").read_text().split()[1])
        except OSError:
            continue  # it has ended since
        found[part] += pages * _PAGE / 2**20
    return found


def once(endpoint: Endpoint, client: Executor, path: str, body: bytes) -> dict[str, Any]:
    """One request beside one stream."""
    port = urlsplit(endpoint.address).port or 0
    with RunningStream(port) as stream:
        before, quiet = rss(endpoint), time.monotonic()
        time.sleep(_QUIET_S)
        status, said, begun, ended = client.submit(sent, port, path, body).result()
        time.sleep(_AFTER_S)
        after = rss(endpoint)
        without = stream.longest_gap_s(quiet, quiet + _QUIET_S)
        gap = stream.longest_gap_s(begun, ended + _AFTER_S / 2)
    return {
        "status": status,
        "said": said,
        "seconds": ended - begun,
        "gap_ms": 1000 * (gap - without),
        "without_ms": 1000 * without,
        "mib": {part: after[part] - before[part] for part in _PARTS},
        "from": begun,
        "until": ended + _AFTER_S / 2,
    }


def of_several(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians, and the largest gap."""
    gaps = [each["gap_ms"] for each in found]
    return {
        "status": found[-1]["status"],
        "said": found[-1]["said"],
        "seconds": median(each["seconds"] for each in found),
        "gap_ms": median(gaps),
        "largest_ms": max(gaps),
        "without_ms": median(each["without_ms"] for each in found),
        "mib_first": found[0]["mib"],
        "mib": {part: median(each["mib"][part] for each in found) for part in _PARTS},
    }


def longest(heard: Sequence[Told], runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of each part and kind, milliseconds: the longest in any of the runs."""
    found = {f"{part} {kind}": 0.0 for part in _PARTS for kind in KINDS}
    for each in heard:
        name = f"{each.part} {each.kind}"
        if name in found and any(run["from"] <= each.when <= run["until"] for run in runs):
            found[name] = max(found[name], each.milliseconds)
    return found


def show(name: str, found: Mapping[str, Any]) -> None:
    memory = " ".join(f"{part} {found['mib'][part]:+.0f}" for part in _PARTS)
    held = ", ".join(f"{what} {most:.0f}" for what, most in found["held_ms"].items() if most)
    print(
        f"{name}: {found['status']} in {found['seconds']:.2f} s, gap {found['gap_ms']:.0f} ms "
        f"(at most {found['largest_ms']:.0f}; {found['without_ms']:.0f} without), processor ms: "
        f"{held or 'below 5'}; MiB {memory}",
        flush=True,
    )


class Measuring:
    """One endpoint, with probes in its processes, and a process that sends."""

    def __init__(self, endpoint: Endpoint, client: Executor, heard: Path) -> None:
        self._endpoint = endpoint
        self._client = client
        self._heard = heard

    def measured(self, path: str, body: bytes, times: int, *, tells: bool) -> dict[str, Any]:
        """tells: prints what was longest, too."""
        runs = [once(self._endpoint, self._client, path, body) for _ in range(times)]
        heard = told(self._heard, self._endpoint.processes())
        found = {**of_several(runs), "held_ms": longest(heard, runs)}
        if tells:
            during = [e for e in heard if any(r["from"] <= e.when <= r["until"] for r in runs)]
            during.sort(key=lambda each: -each.milliseconds)
            print(*during[:8], sep="\n", flush=True)
        return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.stalls", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(REQUESTS), metavar="REQUEST")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--tell", action="store_true", help="what kept threads waiting")
    asked = parser.parse_args()
    disable_progress_bar()
    torch.set_num_threads(1)  # the cores are the endpoint's
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="expertpool-stalls-") as directory:
        place, heard = Path(directory), Path(directory) / "heard"
        heard.mkdir()
        variables = {
            "PYTHONPATH": os.pathsep.join((str(Path(__file__).parent / "probe"), str(ROOT))),
            "STALLS_TO": str(heard),
            "RAY_USE_UVLOOP": "0",  # whose callbacks cannot be timed
        }
        endpoint = Endpoint(options(place), place, key="-", variables=variables)
        try:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as client:
                once(endpoint, client, "/tokenize", b"{}")
                measuring = Measuring(endpoint, client, heard)
                for name in asked.only or REQUESTS:
                    request = REQUESTS[name]
                    bodies = {name: request.body}
                    if request.beside is not None:
                        bodies[f"beside {name}"] = request.beside
                    for label, body in bodies.items():
                        result[label] = measuring.measured(
                            request.path, body(), asked.times, tells=asked.tell
                        )
                        show(label, result[label])
        finally:
            endpoint.stop()
    print(json.dumps(result, indent=2, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
