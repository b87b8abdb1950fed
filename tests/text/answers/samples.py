"""Answers in each format, written by the published description of it, and what is in them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "metric": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
        "where": {"$ref": "#/$defs/Place"},
    },
    "$defs": {"Place": {"type": "object"}},
}
TOOLS: dict[str, Any] = {"get_weather": WEATHER, "run": {"type": "object", "properties": {}}}
PARIS = {"city": "Paris", "days": 3}
FULL = {"city": 'Saint-Denis "93"\n{x}', "days": 2, "metric": True, "where": {"lat": [1.5, 2]}}


@dataclass(frozen=True)
class Sample:
    """form: the name of the format.   prompt: its end.   calls: names and arguments."""

    form: str
    text: str
    content: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    prompt: str = ""


_GET = ("get_weather", PARIS)
_PARIS_JSON = '{"city": "Paris", "days": 3}'
_JSON = '{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}'
_FULL_JSON = (
    '{"name": "get_weather", "arguments": {"city": "Saint-Denis \\"93\\"\\n{x}", "days": 2,'
    ' "metric": true, "where": {"lat": [1.5, 2]}}}'
)
_XML = "<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
_XML_FULL = (
    '<parameter=city>\nSaint-Denis "93"\n{x}\n</parameter>\n<parameter=days>\n2\n</parameter>\n'
    '<parameter=metric>\ntrue\n</parameter>\n<parameter=where>\n{"lat": [1.5, 2]}\n</parameter>\n'
)
_DS = "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_DS_END = "<｜tool▁calls▁end｜>"


def _deepseek_v3(arguments: str) -> str:
    begin, end = f"{_DS[1]}function{_DS[2]}get_weather\n```json\n", f"\n```{_DS[3]}"
    return f"{begin}{arguments}{end}"


SAMPLES = (
    Sample("hermes", "Hello, world. ", "Hello, world."),
    Sample("hermes", f"<tool_call>\n{_JSON}\n</tool_call>", calls=(_GET,)),
    Sample(
        "hermes",
        "<think>\nThe user wants\n\nweather.\n</think>\n\nI will look.\n"
        f"<tool_call>\n{_JSON}\n</tool_call>\n<tool_call>\n{_FULL_JSON}\n</tool_call>",
        "I will look.",
        "The user wants\n\nweather.",
        (_GET, ("get_weather", FULL)),
    ),
    Sample(
        "hermes",
        "so it is.\n</think>\n\nYes.",
        "Yes.",
        "so it is.",
        prompt="<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n",
    ),
    Sample(
        "hermes",
        " go on, 1 < 2",
        "go on, 1 < 2",
        prompt="<|im_start|>assistant\n<think>\n\n</think>\n\n",
    ),
    Sample("hermes", "a <tool_call>no call</tool_call> b", "a <tool_call>no call b"),
    Sample(
        "hermes",
        '<tool_call>{"arguments": {"city": "Paris", "days": 3}, "name": "get_weather"}</tool_call>',
        calls=(_GET,),
    ),
    Sample(
        "hermes", '<tool_call>{"name": "run", "arguments": {}}</tool_call>', calls=(("run", {}),)
    ),
    Sample("hermes", '<tool_call>{"name": "run"}</tool_call>', calls=(("run", {}),)),
    Sample(
        "hermes",
        '<tool_call>{"name": "run", "arguments": "{\\"a\\": 1}"}</tool_call>',
        calls=(("run", {"a": 1}),),
    ),
    Sample(
        "qwen3_coder",
        f"I look.\n<tool_call>\n<function=get_weather>\n{_XML}</function>\n</tool_call>\n"
        f"<tool_call>\n<function=get_weather>\n{_XML_FULL}</function>\n</tool_call>",
        "I look.",
        calls=(_GET, ("get_weather", FULL)),
    ),
    Sample(
        "qwen3_coder",
        "<tool_call>\n<function=run>\n<parameter=code>\n  if a < b:\n    pass\n\n</parameter>\n"
        "</function>\n</tool_call>",
        calls=(("run", {"code": "  if a < b:\n    pass\n"}),),
    ),
    Sample("qwen3_coder", "<think>x</think>plain <function=y>", "plain <function=y>", "x"),
    Sample("mistral", f"[TOOL_CALLS][{_JSON}, {_FULL_JSON}]", calls=(_GET, ("get_weather", FULL))),
    Sample(
        "mistral",
        'So: [TOOL_CALLS] [{"name": "run", "arguments": {"a": 1}, "id": "abcdefghi"}]',
        "So:",
        calls=(("run", {"a": 1}),),
    ),
    Sample("mistral", " Salut [x]", "Salut [x]"),
    Sample(
        "mistral_v11",
        '[THINK]hm[/THINK]Let me[TOOL_CALLS]get_weather[ARGS]{"city": "Paris", "days": 3}'
        '[TOOL_CALLS]run[CALL_ID]123456789[ARGS]{"a": "[/ARGS]"}',
        "Let me",
        "hm",
        (_GET, ("run", {"a": "[/ARGS]"})),
    ),
    Sample(
        "deepseek_v3",
        "Yes" + _DS[0] + _deepseek_v3(_PARIS_JSON) + "\n" + _deepseek_v3("{}") + _DS_END,
        "Yes",
        calls=(_GET, ("get_weather", {})),
    ),
    Sample("deepseek_v3", "<think>\nr\n</think>\n\nc", "c", "r"),
    Sample(
        "deepseek_v31",
        f"{_DS[0]}{_DS[1]}get_weather{_DS[2]}"
        + '{"city": "Paris", "days": 3}'
        + _DS[3]
        + f"{_DS[1]}run{_DS[2]}"
        + "{}"
        + _DS[3]
        + _DS_END,
        calls=(_GET, ("run", {})),
    ),
    Sample(
        "deepseek_v31",
        "because</think>It is.",
        "It is.",
        "because",
        prompt="<｜User｜>hi<｜Assistant｜><think>",
    ),
    Sample(
        "glm",
        "<think>hm</think>\nI look.\n<tool_call>get_weather\n<arg_key>city</arg_key>\n"
        "<arg_value>Paris</arg_value>\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n"
        "</tool_call>\n<tool_call>run</tool_call>",
        "I look.",
        "hm",
        (_GET, ("run", {})),
    ),
    Sample(
        "glm",
        "<tool_call>get_weather<arg_key>city</arg_key><arg_value>12</arg_value></tool_call>",
        calls=(("get_weather", {"city": "12"}),),
    ),
    Sample(
        "minimax",
        'hm\n</think>\n\nI look.\n<minimax:tool_call>\n<invoke name="get_weather">\n'
        '<parameter name="city">Paris</parameter>\n<parameter name="days">3</parameter>\n'
        '</invoke>\n<invoke name="run">\n</invoke>\n</minimax:tool_call>',
        "I look.",
        "hm",
        (_GET, ("run", {})),
        prompt="]~b]ai\n<think>\n",
    ),
    Sample("granite", f"<|tool_call|>[{_JSON}]", calls=(_GET,)),
    Sample(
        "granite",
        "<think>hm</think> <response>It is.</response>",
        "It is.",
        "hm",
    ),
    Sample(
        "gemma",
        '<|channel>thought\nhm\n<channel|>I look.<|tool_call>call:get_weather{city:<|"|>Paris<|"|>,'
        "days:3}<tool_call|>",
        "I look.",
        "hm",
        (_GET,),
    ),
    Sample(
        "gemma_function",
        "<start_function_call>call:get_weather{city:<escape>Paris<escape>,days:3}"
        "<end_function_call>",
        calls=(_GET,),
    ),
    Sample(
        "gpt_oss",
        "<|channel|>analysis<|message|>Need weather.<|end|><|start|>assistant<|channel|>commentary"
        "<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather "
        '<|constrain|>json<|message|>{"city": "Paris", "days": 3}<|call|>',
        "I look.",
        "Need weather.",
        (_GET,),
        prompt="<|start|>user<|message|>hi<|end|><|start|>assistant",
    ),
    Sample(
        "gpt_oss",
        " to=functions.get_weather<|channel|>commentary json<|message|>"
        '{"city": "Paris", "days": 3}',
        calls=(_GET,),
        prompt="<|start|>assistant",
    ),
    Sample(
        "gpt_oss",
        "<|channel|>commentary to=functions.run json<|message|>{}<|call|>"
        "<|start|>assistant<|channel|>analysis<|message|>More.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Done.<|return|>",
        "Done.",
        "More.",
        (("run", {}),),
        prompt="<|start|>assistant",
    ),
    Sample(
        "hy_v3",
        "hm</think:opensource>I look.<tool_calls:opensource>\n<tool_call:opensource>get_weather"
        "<tool_sep:opensource>\n<arg_key:opensource>city</arg_key:opensource>\n"
        "<arg_value:opensource>Paris</arg_value:opensource>\n"
        "<arg_key:opensource>days</arg_key:opensource>\n"
        "<arg_value:opensource>3</arg_value:opensource>\n</tool_call:opensource>\n"
        "<tool_call:opensource>run<tool_sep:opensource>\n</tool_call:opensource>\n"
        "</tool_calls:opensource>",
        "I look.",
        "hm",
        (_GET, ("run", {})),
        prompt="<｜hy_Assistant:opensource｜><think:opensource>",
    ),
    Sample(
        "glm",
        "hm</think>I look.<tool_call>get_weather<arg_key>city</arg_key><arg_value>Paris</arg_value>"
        "<arg_key>days</arg_key><arg_value>3</arg_value></tool_call>",
        "I look.",
        "hm",
        (_GET,),
        prompt="<user>hi</user>\n<assistant><think>",
    ),
    Sample(
        "deepseek_v31",
        "Sunny.",
        "Sunny.",
        prompt=f"<｜User｜>hi<｜Assistant｜></think>{_DS[0]}{_DS[1]}run{_DS[2]}{{}}{_DS[3]}{_DS_END}"
        "<｜end▁of▁sentence｜><｜tool▁output▁begin｜>5<｜tool▁output▁end｜>",
    ),
    Sample(
        "kimi_k2",
        "<think>hm</think>I look.<|tool_calls_section_begin|><|tool_call_begin|>"
        "functions.get_weather:0<|tool_call_argument_begin|>"
        '{"city": "Paris", "days": 3}<|tool_call_end|><|tool_call_begin|>functions.run:1'
        "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
        "I look.",
        "hm",
        (_GET, ("run", {})),
    ),
    Sample(
        "kimi_k2",
        "\n<|tool_calls_section_begin|>\n<|tool_call_begin|>get_weather:12\n"
        '<|tool_call_argument_begin|> {"city": "Paris", "days": 3} \n<|tool_call_end|>\n'
        "<|tool_calls_section_end|>",
        calls=(_GET,),
        prompt="<|im_assistant|>assistant<|im_middle|>",
    ),
    Sample(
        "llama",
        '{"name": "get_weather", "parameters": {"city": "Paris", "days": 3}}',
        calls=(_GET,),
        prompt="<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    Sample(
        "llama",
        'So:\n<|python_tag|>{"type": "function", "name": "run", "parameters": {"a": {"b": 1}}}; '
        '{"name": "get_weather", "parameters": {"city": "Paris", "days": 3}}',
        "So:",
        calls=(("run", {"a": {"b": 1}}), _GET),
    ),
    Sample(
        "llama",
        '{"name": "run", "parameters": {}}{"name": "get_weather", "parameters": '
        '{"city": "Paris", "days": 3}}',
        calls=(("run", {}), _GET),
        prompt="<|header_start|>assistant<|header_end|>\n\n",
    ),
    Sample(
        "llama",
        "[get_weather(city=\"Paris\", days=3), run(a=[1.5, -2, None], b={'c': True}, d='\\d')]",
        calls=(_GET, ("run", {"a": [1.5, -2, None], "b": {"c": True}, "d": "\\d"})),
    ),
    Sample(
        "llama",
        "<|python_start|>[spotify.play(name='[x(1)]')]<|python_end|>",
        calls=(("spotify.play", {"name": "[x(1)]"}),),
    ),
    Sample(
        "llama",
        'See {"name": "x"} and [f(x) = 2], no call',
        'See {"name": "x"} and [f(x) = 2], no call',
    ),
    Sample(
        "olmo3",
        "<think>hm</think>\n\nI look.\n<function_calls>\nget_weather(city='Paris', days=3)\n"
        "run(a=null, b=true)\n</function_calls>",
        "I look.",
        "hm",
        (_GET, ("run", {"a": None, "b": True})),
    ),
    Sample("olmo3", "<function_calls>\nno call\n</function_calls>", "<function_calls>\nno call"),
    Sample("think", "<think>a</think>b", "b", "a"),
    Sample("think", "a\n</think>\nb", "b", "a", prompt="<|assistant|>\n<think>\n"),
)
LONGEST = {each.form: each for each in sorted(SAMPLES, key=lambda each: len(each.text))}
"""The longest sample of each format."""
KINDS = {tuple(map(bool, (each.content, each.reasoning, each.calls))): each for each in SAMPLES}
"""A sample of each kind: by whether there are content, reasoning and calls."""
