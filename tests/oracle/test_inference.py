"""The ways to run a model beside the plain one: quantised, streamed, in a conversation, with flags of every kind."""

import json
from pydoc_data.topics import topics

import pytest
import torch
from smollm2 import smollm2
from tiny_models import our_logits, run, save_variant
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = "The quick brown fox jumps over the lazy dog. Water boils at one hundred degrees, and ice melts at zero. " * 12


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    return smollm2(tmp_path_factory)


def ask(model, *options, **how):
    return json.loads(run("generate", model, "--json", *options, **how).stdout)


def chat(model, lines, *options):
    result = run("chat", model, "--json", "--temp", 0, *options, input="\n".join(lines) + "\n")
    return [json.loads(line) for line in result.stdout.splitlines()], result.stderr


@pytest.mark.parametrize("quant, tolerance", [("int8", 0.05), ("int4", 0.5)])
@pytest.mark.parametrize("name", ["llama-biased", "mixtral", "qwen2_moe", "qwen3_moe-window", "gemma2", "starcoder2", "deepseek_v2-queries",
                                  "granitemoeshared", "gpt_oss", "phimoe-biased", "llama4_text", "dbrx"])
def test_quantised_logits_are_close(name, quant, tolerance, tmp_path):
    model = save_variant(name, tmp_path / "model")
    ids = torch.randint(3, 320, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(ids).logits
    for options in [(), ("--cache",)]:  # many rows at once through libtorch, one at a time through the kernels
        ours = our_logits(tmp_path / "model", ids.tolist(), tmp_path, "--quant", quant, *options)
        assert ((ours - expected).flatten(0, 1).norm(dim=-1) / expected.flatten(0, 1).norm(dim=-1)).median() < tolerance


def test_quantised_perplexity_of_a_real_model(chat_model, tmp_path):
    """On prose every Python has; in f32, so that the rounding of weights is all that differs."""
    (tmp_path / "text.txt").write_text(topics["assignment"] + topics["operator-summary"] + topics["typesseq"])
    ppl = {}
    for quant in ([], ["--quant", "int8"], ["--quant", "int4"]):
        tasks = json.loads(run("eval", chat_model, "--task", f"ppl:{tmp_path / 'text.txt'}", "--limit", 1024, "--dtype", "float32", "--json", *quant).stdout)["tasks"]
        ppl[" ".join(quant)] = next(iter(tasks.values()))["ppl"]
    assert ppl["--quant int8"] == pytest.approx(ppl[""], rel=0.005)
    assert ppl["--quant int4"] == pytest.approx(ppl[""], rel=0.04)


def test_unknown_quantisation_is_refused(tmp_path):
    save_variant("llama", tmp_path / "model")
    result = run("bench", tmp_path / "model", "--quant", "int3", check=False)
    assert (result.returncode, "use int8 or int4" in result.stderr) == (2, True)
    result = run("bench", tmp_path / "model", "--quant", "int8", "--stream-layers", check=False)
    assert result.returncode == 2


@pytest.mark.parametrize("options", [(), ("--quant", "int8"), ("--stream-layers",)])
def test_bench_gives_the_agreed_keys(options, tmp_path):
    save_variant("mixtral", tmp_path / "model")
    result = json.loads(run("bench", tmp_path / "model", "-p", 16, "-n", 4, "-b", 2, "-r", 1, "--json", *options).stdout)
    assert set(result) == {"prefill_tokens_per_second", "decode_tokens_per_second", "load_seconds", "peak_rss_bytes"}
    assert all(value > 0 for value in result.values())


def test_greedy_text_is_the_same_however_it_is_made(chat_model):
    # In f32: the two best first tokens are 0.1 apart, less than bf16 tells from each other.
    question = ["-p", "What is the capital of France?", "-n", 16, "--dtype", "float32"]
    plain = ask(chat_model, *question)
    assert "Paris" in plain["text"]
    assert ask(chat_model, *question, "--stream-layers")["ids"] == plain["ids"]


def test_stop_strings_end_the_text_before_them(chat_model):
    plain = ask(chat_model, "-p", "Count from one to ten in words.", "-n", 40)["text"]
    word = plain.split()[4]
    stopped = ask(chat_model, "-p", "Count from one to ten in words.", "-n", 40, "--stop", word, "--stop", "never there")
    assert stopped["text"] == plain[:plain.index(word)]
    assert stopped["finish_reason"] == "stop"


def test_a_penalty_on_repetition_changes_what_repeats(chat_model):
    plain = ask(chat_model, "--raw", "-p", "ha ha ha ha ha ha", "-n", 24)["ids"]
    penalised = ask(chat_model, "--raw", "-p", "ha ha ha ha ha ha", "-n", 24, "--repeat-penalty", 1.5)["ids"]
    assert len(set(penalised)) > len(set(plain))


def test_one_seed_gives_one_text(chat_model):
    def sample(seed):
        return ask(chat_model, "-p", "Tell me a story.", "-n", 12, "--temp", 1.5, "-s", seed)["ids"]

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_prompts_together_are_continued_as_each_alone(chat_model, tmp_path):
    prompts = ["The capital of France is", "Once upon a time, in a land far away, there lived a", "def fib(n):", "1, 2, 3, 4,", "Water"]
    alone = [ask(chat_model, "--raw", "-p", prompt, "-n", 12, "--dtype", "float32") for prompt in prompts]
    (tmp_path / "prompts.txt").write_text("\n\n".join(prompts) + "\n")
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    for file, parallel in (("prompts.txt", 2), ("prompts.jsonl", 8)):
        lines = run("generate", chat_model, "--raw", "--batch", tmp_path / file, "--parallel", parallel, "-n", 12, "--dtype", "float32").stdout.splitlines()
        together = [json.loads(line) for line in lines]
        assert [line["prompt"] for line in together] == prompts
        for one, other in zip(alone, together):
            assert {key: one[key] for key in ("ids", "text", "finish_reason")} == {key: other[key] for key in ("ids", "text", "finish_reason")}


def test_bad_batches_are_refused(chat_model, tmp_path):
    for name, text, code, message in (("empty.txt", "\n", 2, "no prompt"), ("bad.jsonl", '{"text": "x"}\n', 3, 'no "prompt"'), ("broken.jsonl", "{\n", 3, "line 1")):
        (tmp_path / name).write_text(text)
        result = run("generate", chat_model, "--batch", tmp_path / name, check=False)
        assert (result.returncode, message in result.stderr) == (code, True), result.stderr


def test_a_conversation_remembers_and_reuses_what_it_computed(chat_model):
    turns, _ = chat(chat_model, ["My name is Ada.", "What is my name?"], "-n", 24, "--dtype", "float32")
    messages = [{"role": "user", "content": "My name is Ada."}, {"role": "assistant", "content": turns[0]["text"]}, {"role": "user", "content": "What is my name?"}]
    tokenizer, model = AutoTokenizer.from_pretrained(chat_model), AutoModelForCausalLM.from_pretrained(chat_model, dtype=torch.float32)
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**ids, max_new_tokens=24, do_sample=False)[0, ids["input_ids"].shape[1]:]
    assert turns[1]["text"].strip() == tokenizer.decode(answer, skip_special_tokens=True).strip()
    assert turns[0]["reused_tokens"] == 0
    # All of the first turn is there already, up to what the template writes after an answer.
    assert turns[1]["reused_tokens"] >= turns[0]["prompt_tokens"] + turns[0]["tokens"] - 2


def test_reuse_does_not_change_the_answer(chat_model):
    first, _ = chat(chat_model, ["Name a colour.", "Name a fruit."], "-n", 16)
    again, _ = chat(chat_model, ["Name a colour.", "/regen", "Name a fruit."], "-n", 16)
    assert again[0]["text"] == again[1]["text"] == first[0]["text"]
    assert again[2]["text"] == first[1]["text"]


def test_commands_of_a_conversation(chat_model):
    turns, stderr = chat(chat_model, ["/regen", "/nonsense", "My name is Ada.", "/clear", "What is my name?", "/exit", "never read"], "-n", 24)
    assert "no answer to make again" in stderr
    assert "/nonsense is not a command" in stderr
    assert len(turns) == 2
    assert "Ada" not in turns[1]["text"]
    assert "/regen" in run("chat", chat_model, input="/help\n").stdout


def test_a_system_prompt_is_heard(chat_model):
    plain, _ = chat(chat_model, ["Hello."], "-n", 24)
    told, _ = chat(chat_model, ["Hello."], "-n", 24, "-sys", "You are a pirate. Answer with Arr.")
    assert told[0]["prompt_tokens"] != plain[0]["prompt_tokens"]
    assert told[0]["text"] != plain[0]["text"]


def test_a_conversation_goes_on_after_a_message_that_does_not_fit(chat_model):
    turns, stderr = chat(chat_model, [TEXT, "Hello."], "-n", 8, "-c", 128)
    assert "does not fit the context" in stderr
    assert len(turns) == 1


def test_a_model_without_a_template_is_refused(tmp_path, chat_model):
    save_variant("llama", tmp_path / "model")
    (tmp_path / "model/tokenizer.json").write_bytes((chat_model / "tokenizer.json").read_bytes())
    result = run("chat", tmp_path / "model", input="Hello.\n", check=False)
    assert (result.returncode, "no chat template" in result.stderr) == (3, True)


def test_the_context_ends_a_generation(chat_model):
    result = ask(chat_model, "--raw", "-p", "one two three", "-c", 8, "-n", 100)
    assert result["prompt_tokens"] + result["tokens"] <= 9
    assert result["finish_reason"] == "length"
    refused = run("generate", chat_model, "--raw", "-p", TEXT, "-c", 8, check=False)
    assert (refused.returncode, "does not fit the context" in refused.stderr) == (1, True)
