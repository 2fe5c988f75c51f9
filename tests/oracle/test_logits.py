"""Our graph against transformers': the same logits and the same greedy text, whichever way the layers are run."""

import json

import chained_deepseek
import pytest
import torch
from safetensors.torch import save_file
from smollm2 import smollm2
from tiny_models import VARIANTS, make_model, our_logits, run, save_variant
from transformers import AutoModelForCausalLM


def random_ids(batch, length, seed=1):
    return torch.randint(3, 320, (batch, length), generator=torch.Generator().manual_seed(seed))


# One of each architecture, with what its cache could get wrong.
ONE_OF_EACH = [
    "llama-mqa", "mistral-window", "qwen2-window", "qwen3_moe-window", "mixtral", "qwen2_moe", "phi3-longrope", "gemma2-window", "gemma3_text",
    "granite", "olmo2", "smollm3", "starcoder2-window", "deepseek_v2-queries", "deepseek_v3-yarn", "olmoe-clipped", "phimoe", "granitemoeshared",
    "gpt_oss-windows", "glm4_moe-normed", "llama4_text-tuned", "dbrx",
]


def greedy(model, prompt, count):
    ids = prompt
    with torch.no_grad():
        for _ in range(count):
            ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    return ids


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_and_greedy_text_equal_transformers(name, tmp_path):
    """Equal logits on random ids, and on a text of which each token is the likeliest: the same choice 32 times."""
    model = save_variant(name, tmp_path / "model")
    text = greedy(model, random_ids(1, 16), 32)
    ids = torch.cat([text, random_ids(1, 48, seed=2)])
    with torch.no_grad():
        expected = model(ids).logits
    assert expected.std() > 0.3, "the model must have something to say"
    ours = our_logits(tmp_path / "model", ids.tolist(), tmp_path)
    assert (ours - expected).abs().max() < 1e-4
    # Longrope changes its frequencies on the way from 16 tokens to 48: the text did not come from these logits.
    if "longrope" not in name:
        assert torch.equal(ours[0, 15:47].argmax(-1), text[0, 16:])


@pytest.mark.parametrize("option", ["--cache", "--together", "--stream-layers"])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_neither_cache_nor_company_nor_streaming_changes_anything(name, option, tmp_path):
    model = save_variant(name, tmp_path / "model")
    # Longrope has other frequencies beyond the trained length, which a cache cannot take back.
    ids = random_ids(2, 30 if "longrope" in name else 40)
    with torch.no_grad():
        expected = model(ids).logits
    assert (our_logits(tmp_path / "model", ids.tolist(), tmp_path, option) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("variant", chained_deepseek.VARIANTS)
def test_chains_of_experts(variant, tmp_path):
    model = chained_deepseek.make_chained(variant)
    chained_deepseek.save_chained(model, tmp_path / "model", variant)
    ids = random_ids(2, 32)
    with torch.no_grad():
        expected = model(ids).logits
    assert (our_logits(tmp_path / "model", ids.tolist(), tmp_path) - expected).abs().max() < 1e-4
    assert (our_logits(tmp_path / "model", ids.tolist(), tmp_path, "--cache") - expected).abs().max() < 2e-4


@pytest.mark.parametrize("name", ["llama-rope-dynamic", "llama-rope-longrope"])
def test_scalings_that_depend_on_the_length(name, tmp_path):
    """Beyond the trained length these change their frequencies."""
    model = save_variant(name, tmp_path / "model")
    ids = random_ids(1, 200)
    with torch.no_grad():
        expected = model(ids).logits
    assert (our_logits(tmp_path / "model", ids.tolist(), tmp_path) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_bfloat16_is_as_close_to_the_truth_as_transformers(name, tmp_path):
    model = save_variant(name, tmp_path / "model")
    ids = random_ids(4, 32)
    with torch.no_grad():
        truth = model(ids).logits.flatten(0, 1)
        model.to(torch.bfloat16).save_pretrained(tmp_path / "bf16")
        theirs = model(ids).logits.float().flatten(0, 1)
    ours = our_logits(tmp_path / "bf16", ids.tolist(), tmp_path, "--dtype", "bfloat16").flatten(0, 1)
    # A near tie between two experts may fall either way in bf16, so some tokens differ: the median token must not.
    assert torch.cosine_similarity(ours, theirs, dim=-1).median() > 0.999
    assert (ours - truth).abs().median() < 1.2 * (theirs - truth).abs().median()


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "qwen3_moe-sparse"])
def test_fused_layout_is_the_same_model(name, tmp_path):
    model = save_variant(name, tmp_path / "model", save_original_format=False)
    ids = random_ids(2, 16)
    with torch.no_grad():
        expected = model(ids).logits
    assert (our_logits(tmp_path / "model", ids.tolist(), tmp_path) - expected).abs().max() < 1e-4


def test_experts_in_mxfp4_are_read_exactly(tmp_path):
    """As gpt-oss is published: the same logits as with the decoded values in bfloat16."""
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    model_type, changes = VARIANTS["gpt_oss"]
    model = make_model(model_type, {**changes, "intermediate_size": 96})
    tensors = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    random = torch.Generator().manual_seed(7)
    for name in [name for name in tensors if name.endswith("_proj") and ".experts." in name]:
        experts, width, rows = tensors.pop(name).shape
        blocks = torch.randint(0, 256, (experts, rows, width // 32, 16), generator=random, dtype=torch.uint8)
        scales = torch.randint(122, 126, (experts, rows, width // 32), generator=random, dtype=torch.uint8)
        decoded = torch.stack([values[(blocks & 15).long()], values[(blocks >> 4).long()]], -1).flatten(-2) * 2.0 ** (scales.float() - 127)[..., None]
        model.state_dict()[name].copy_(decoded.flatten(-2).transpose(1, 2))
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    (tmp_path / "model").mkdir()
    save_file(tensors, tmp_path / "model/model.safetensors")
    (tmp_path / "model/config.json").write_text(json.dumps({**model.config.to_dict(), "quantization_config": {"quant_method": "mxfp4"}}))
    ids = random_ids(2, 24)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))
        expected = model(ids).logits
    assert (our_logits(tmp_path / "model", ids.tolist(), tmp_path, "--dtype", "float32") - expected).abs().max() < 1e-4


def test_quantised_safetensors_are_refused(tmp_path):
    save_variant("llama", tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    (tmp_path / "ids.json").write_text("[[1]]")
    status, stderr = refusal("logits", tmp_path / "model", "--ids", tmp_path / "ids.json", "-o", tmp_path / "out.safetensors")
    assert (status, 'quantization_config: "gptq" is not read' in stderr) == (3, True), stderr


@pytest.mark.parametrize("name", ["llama-rope-llama3", "mistral-window", "qwen3_moe"])
def test_old_config_spelling_is_the_same_model(name, tmp_path):
    model = save_variant(name, tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    rope["type"] = rope.pop("rope_type")
    config["rope_scaling"] = None if rope["type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    ids = random_ids(1, 48)
    with torch.no_grad():
        expected = model(ids).logits
    assert (our_logits(tmp_path / "model", ids.tolist(), tmp_path) - expected).abs().max() < 1e-4


def refusal(*arguments):
    result = run(*arguments, check=False)
    return result.returncode, result.stderr


def test_bad_ids_are_refused(tmp_path):
    save_variant("llama", tmp_path / "model")
    ids = tmp_path / "ids.json"
    for text, code, message in [
        ("[[1, 2], [3]]", 3, "row 1: expected a list of lists"),
        ("[]", 3, "expected a list of lists"),
        ("[[1, 320]]", 3, "token id 320 is not in the vocabulary (0 to 319)"),
        ("[[-1]]", 3, "token id -1 is not in the vocabulary"),
        ("[[1.5]]", 3, "expected a list of lists"),
        ("[[1", 3, "not valid JSON"),
    ]:
        ids.write_text(text)
        status, stderr = refusal("logits", tmp_path / "model", "--ids", ids, "-o", tmp_path / "out.safetensors")
        assert (status, message in stderr) == (code, True), stderr
        assert not (tmp_path / "out.safetensors").exists()


def test_a_tensor_of_another_shape_is_refused_before_anything_runs(tmp_path):
    save_variant("mixtral", tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    config["intermediate_size"] = 95
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    (tmp_path / "ids.json").write_text("[[1]]")
    status, stderr = refusal("logits", tmp_path / "model", "--ids", tmp_path / "ids.json", "-o", tmp_path / "out.safetensors")
    assert status == 3
    assert "experts.0.w1.weight (got [96, 64], expected [95, 64])" in stderr


def test_real_smollm2_has_the_same_logits_and_the_same_greedy_text(tmp_path, tmp_path_factory):
    directory = smollm2(tmp_path_factory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    ids = torch.randint(20, 40000, (2, 64), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = model(ids).logits
        greedy = model.generate(ids[:1, :16], max_new_tokens=24, do_sample=False)[0, 16:].tolist()
    assert (our_logits(directory, ids.tolist(), tmp_path) - expected).abs().max() < 1e-4
    # Greedy text, one forward a token, from the same prompt.
    prompt = ids[0, :16].tolist()
    for token in greedy:
        prompt.append(token)
    chosen = our_logits(directory, [prompt[:-1]], tmp_path)[0, 15:].argmax(-1).tolist()
    assert chosen == greedy
