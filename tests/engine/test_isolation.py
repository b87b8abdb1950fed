"""The engine runs where only torch, transformers and safetensors are."""

import subprocess
import sys

BLOCKED = ("ray", "fastapi", "starlette", "pydantic", "uvicorn", "consolidation")
PROGRAM = f"""
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Block())
from tests.engine.running import answer, engine_of, greedy_requests
from tests.support.checkpoints import tiny_model
from tests.support.sources import MemorySource

engine = engine_of(MemorySource("r1", {{"m1": tiny_model("mixtral", 1)}}))
found = answer(engine, greedy_requests(["m1"], [5], max_tokens=4))
print(len(found["m1-0"].tokens))
engine.close()
"""


def test_the_engine_imports_and_answers_without_ray_fastapi_or_pydantic() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "4"
