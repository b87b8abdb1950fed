"""What the usage records sum to is what the metrics and the clients counted."""

import asyncio
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx

from consolidation.release.storage import open_storage
from serve_app.api.routes import Api, build_api
from serve_app.config import ServeConfig
from serve_app.tenants.usage_log import UsageLog
from serve_app.tenants.usage_sums import records, summed
from tests.api.held_keys import HeldKeys
from tests.serving.asking import HELLO, said
from tests.serving.fakes import world
from tests.serving.metric_pages import of_one
from tests.serving.running import replica_of, serves

CONFIG = ServeConfig(family="fam", poll_s=0.02)
NUM_REQUESTS = 500


def test_500_requests_sum_to_what_metrics_and_clients_counted(tmp_path: Path) -> None:
    log = UsageLog(str(tmp_path), "one", lambda: 86400.0 * 9)
    counted: Counter[str] = Counter()

    async def one(http: httpx.AsyncClient, number: int) -> None:
        model = "zz" if number % 10 == 9 else "ab"[number % 2]
        body = {"model": model, "prompt": "the", "max_tokens": 1 + number % 4, "n": 1 + number % 2}
        streams = number % 3 == 0
        options = {"stream": True, "stream_options": {"include_usage": True}} if streams else {}
        answer = await http.post("/v1/completions", json={**body, **options})
        counted[f"{answer.status_code}"] += 1
        if answer.status_code == 200:
            usage = said(answer)[-2]["usage"] if streams else answer.json()["usage"]
            counted["prompt"] += usage["prompt_tokens"]
            counted["answer"] += usage["completion_tokens"]

    async def run() -> str:
        made = world(answers={"a": HELLO, "b": HELLO})
        async with replica_of(made, CONFIG) as replica:
            await serves(replica, "r1")
            keys = HeldKeys({"k": {"scopes": ["infer", "metrics"]}})
            app = build_api(Api(replica, CONFIG.limits, keys, record=log.add))
            transport = httpx.ASGITransport(app=app)
            headers = {"x-api-key": "k"}
            async with httpx.AsyncClient(
                transport=transport, base_url="http://test", headers=headers
            ) as http:
                for start in range(0, NUM_REQUESTS, 25):
                    await asyncio.gather(*(one(http, start + n) for n in range(25)))
                return of_one((await http.get("/metrics")).text)

    text = asyncio.run(run())
    log.close()
    found = list(records(open_storage(str(tmp_path)), *_all_time()))
    by_status = summed(found, ("status",))
    assert {key[0]: one.requests for key, one in by_status.items()} == {
        "200": counted["200"],
        "404": counted["404"],
    }
    assert counted["200"] + counted["404"] == NUM_REQUESTS
    (whole,) = summed(found, ("tenant",)).values()
    assert (whole.prompt_tokens, whole.answer_tokens) == (counted["prompt"], counted["answer"])
    assert _metric(text, "prompt_tokens_total") == whole.prompt_tokens
    assert _metric(text, "generation_tokens_total") == whole.answer_tokens
    assert all(record.queue_s is not None for record in found if record.status == 200)


def _metric(text: str, name: str) -> float:
    """The sum over models, of the tenant."""
    lines = re.findall(rf'^expertpool_{name}{{[^}}]*tenant="acme"}} (\S+)$', text, re.MULTILINE)
    assert len(lines) == 2, "one for each model"
    return sum(float(line) for line in lines)


def _all_time() -> tuple[datetime, datetime]:
    return datetime.min.replace(tzinfo=UTC) + timedelta(days=2), datetime.max.replace(tzinfo=UTC)
