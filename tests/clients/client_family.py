"""Small models that show tools and reasoning in their chat template, and their facts: two are
random and seldom end an answer, and one is brief.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from serve_app.tenants.key_changes import Wanted, with_new_key
from serve_app.tenants.keys_file import KeyScope, KeysFile
from tests.clients.brief_model import SAYS, SHAPE, write_brief
from tests.clients.calling import Facts, Scored
from tests.serving.family import TOKENIZER, TinyFamily, text_after
from tests.support.checkpoints import write_checkpoint

RANDOM = ("a", "b")
BRIEF = "brief"
MODELS = (*RANDOM, BRIEF)
CONTEXT = 8192
PROMPT = "hello world"
SCORED = (
    ("The capital of France is", " Paris"),
    ("The capital of France is", " Rome, of course"),
    ("2 + 2 =", " 4"),
    ("2 + 2 =", " 5"),
    ("naïve café: a", " croissant"),
    ("naïve café: a", " crab"),
)
CHAT_TEMPLATE = """\
{%- if tools -%}
<|im_start|>system
Call functions as {"name": …, "arguments": …} in <tool_call></tool_call>.
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif -%}
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% if enable_thinking or reasoning_effort in ("low", "medium", "high") %}<think>
{% endif %}{% endif -%}
"""
"""As Qwen's does, in few words: hermes is the format that is found for it. A random model that is
told to think never ends its thoughts.
"""


class ClientFamily:
    """A lossless release under `root`, and a keys file for one tenant and one operator."""

    def __init__(self, root: Path) -> None:
        self.tiny = TinyFamily(root)
        shape = {**SHAPE, "max_position_embeddings": CONTEXT}
        for seed, name in enumerate(RANDOM):
            write_checkpoint(root / name, "mixtral", seed, **shape)
        write_brief(root / BRIEF, **shape)
        for name in MODELS:
            (root / name / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
        self.release = self.tiny.publish(MODELS, channel="stable")
        self.keys_path = root / "keys.yaml"
        file, self.key = with_new_key(KeysFile(), Wanted("acme"))
        scopes = frozenset({KeyScope.METRICS, KeyScope.ADMIN})
        file, self.operator_key = with_new_key(file, Wanted("operator", scopes=scopes))
        self.keys_path.write_text(file.text(), encoding="utf-8")

    def facts(self, address: str) -> Facts:
        tokens = TOKENIZER(PROMPT)["input_ids"]
        return Facts(
            address=address,
            key=self.key,
            models=MODELS,
            context=CONTEXT,
            tokenizer=str(self.tiny.root / MODELS[0]),
            prompt=PROMPT,
            greedy=text_after(tokens, self.tiny.generate(MODELS[0], tokens, 12)),
            brief=BRIEF,
            says=SAYS,
            scored=self._scored(),
        )

    def _scored(self) -> tuple[Scored, ...]:
        """Without a first token of its own, as lm-eval asks."""
        model: Any = AutoModelForCausalLM.from_pretrained(
            self.tiny.root / MODELS[0], dtype=torch.float32
        )
        found = []
        for context, continuation in SCORED:
            begun = TOKENIZER(context, add_special_tokens=False)["input_ids"]
            whole = TOKENIZER(context + continuation, add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                rows = torch.log_softmax(model(torch.tensor([whole])).logits[0].float(), dim=-1)
            logprob = sum(float(rows[i - 1, whole[i]]) for i in range(len(begun), len(whole)))
            found.append(Scored(context, continuation, logprob))
        return tuple(found)
