"""What an endpoint and its Ray write down while it is asked: nothing that was said."""

from pathlib import Path

import pytest

from tests.serving.endpoint.served import MODELS, Served

pytestmark = pytest.mark.ray
KEY, MARK = "sk-ep-MARKED0", "zebra quagga okapi"


def test_no_key_prompt_or_answer_is_in_the_logs_or_metrics(served: Served) -> None:
    import ray

    headers = {"authorization": f"Bearer {KEY}"}
    marks = [KEY, MARK]
    for model in (*MODELS, "none"):
        body = {"model": model, "prompt": MARK, "max_tokens": 24, "user": MARK}
        body |= {"ignore_eos": True, "temperature": 0}
        for more in ({}, {"stream": True}, {"temperature": MARK}, {"stop": 7}):
            answer = served.http.post("/v1/completions", json={**body, **more}, headers=headers)
            if answer.status_code == 200 and not more:
                marks.append(answer.json()["choices"][0]["text"])
        chat = {"model": model, "messages": [{"role": "user", "content": MARK}]}
        served.http.post("/v1/chat/completions", json=chat, headers=headers)
        served.http.post("/v1/completions", content=f'{{"prompt": "{MARK}', headers=headers)
    marks = [mark for mark in marks if len(mark.strip()) > 8]
    assert len(marks) > 2
    logs = Path(ray.worker.global_worker.node.get_logs_dir_path())
    written = {path: path.read_bytes() for path in logs.rglob("*") if path.is_file()}
    assert len(written) > 5
    written[Path("/metrics")] = served.http.get("/metrics").content
    for path, text in written.items():
        assert not [mark for mark in marks if mark.encode() in text], path
