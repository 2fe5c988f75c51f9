"""Tiny random models of every architecture, made by transformers, and the way to run the binary under test on them."""

import json
import os
import subprocess
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

BINARY = os.environ.get("MIXWRIGHT", str(Path(__file__).resolve().parents[2] / "build/release/bin/mixwright"))

SMALL = dict(
    vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False, pad_token_id=None,
    bos_token_id=1, eos_token_id=2,
)
MOE = dict(num_experts_per_tok=2, moe_intermediate_size=48)
LATENT = dict(kv_lora_rank=24, q_lora_rank=None, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=12, num_key_value_heads=4)
DEEPSEEK = dict(n_routed_experts=8, n_shared_experts=2, first_k_dense_replace=1, **LATENT, **MOE)
GEMMA = dict(head_dim=24)
GLM = dict(n_routed_experts=8, n_shared_experts=1, first_k_dense_replace=1, **MOE)
GPT_OSS = dict(num_local_experts=6, num_experts_per_tok=2, head_dim=16, sliding_window=9, swiglu_limit=3.0)
GRANITE = dict(embedding_multiplier=6.0, residual_multiplier=0.4, logits_scaling=0.5, attention_multiplier=0.2)
LLAMA4 = dict(num_local_experts=5, intermediate_size=48, intermediate_size_mlp=80, head_dim=16, attention_chunk_size=16, num_hidden_layers=5)
DBRX = dict(d_model=64, n_heads=4, n_layers=3, max_seq_len=128, ffn_config=dict(ffn_hidden_size=48, moe_num_experts=6, moe_top_k=2))
ROPES = {
    "linear": dict(rope_type="linear", factor=4.0),
    "dynamic": dict(rope_type="dynamic", factor=4.0),
    "llama3": dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32),
    "yarn": dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32),
    "yarn_mscale": dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32, mscale=0.7, mscale_all_dim=0.9, beta_fast=16, beta_slow=2),
    "longrope": dict(rope_type="longrope", factor=4.0, original_max_position_embeddings=32,
                     short_factor=[1.0 + 0.1 * i for i in range(8)], long_factor=[1.5 + 0.3 * i for i in range(8)]),
}

# name -> (model_type, what differs from SMALL)
VARIANTS = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", dict(tie_word_embeddings=True)),
    "llama-biased": ("llama", dict(attention_bias=True, mlp_bias=True)),
    "llama-mha": ("llama", dict(num_key_value_heads=4)),
    "llama-mqa": ("llama", dict(num_key_value_heads=1)),
    "llama-head-dim": ("llama", dict(head_dim=24)),
    **{f"llama-rope-{name}": ("llama", dict(rope_parameters=dict(rope_theta=10000.0, **rope))) for name, rope in ROPES.items()},
    "mistral": ("mistral", dict(sliding_window=None)),
    "mistral-window": ("mistral", dict(sliding_window=9)),
    "mistral-head-dim": ("mistral", dict(sliding_window=None, head_dim=32)),
    "qwen2": ("qwen2", {}),
    "qwen2-tied": ("qwen2", dict(tie_word_embeddings=True)),
    "qwen2-window": ("qwen2", dict(use_sliding_window=True, sliding_window=7, max_window_layers=1)),
    "qwen2-yarn": ("qwen2", dict(rope_parameters=dict(rope_theta=1e6, **ROPES["yarn"]))),
    "qwen3": ("qwen3", dict(head_dim=32)),
    "qwen3-biased": ("qwen3", dict(head_dim=16, attention_bias=True)),
    "qwen3-tied": ("qwen3", dict(head_dim=16, tie_word_embeddings=True)),
    "qwen3-window": ("qwen3", dict(head_dim=16, use_sliding_window=True, sliding_window=5, max_window_layers=2)),
    "mixtral": ("mixtral", dict(num_local_experts=4, num_experts_per_tok=2)),
    "mixtral-top1": ("mixtral", dict(num_local_experts=5, num_experts_per_tok=1)),
    "mixtral-window": ("mixtral", dict(num_local_experts=4, num_experts_per_tok=3, sliding_window=8, tie_word_embeddings=True)),
    "mixtral-llama3": ("mixtral", dict(num_local_experts=4, rope_parameters=dict(rope_theta=5e5, **ROPES["llama3"]))),
    "qwen2_moe": ("qwen2_moe", dict(num_experts=6, shared_expert_intermediate_size=80, **MOE)),
    "qwen2_moe-norm": ("qwen2_moe", dict(num_experts=6, shared_expert_intermediate_size=80, norm_topk_prob=True, qkv_bias=False, **MOE)),
    "qwen2_moe-sparse": ("qwen2_moe", dict(num_experts=6, shared_expert_intermediate_size=80, decoder_sparse_step=2, **MOE)),
    "qwen2_moe-window": ("qwen2_moe", dict(num_experts=6, shared_expert_intermediate_size=80, use_sliding_window=True, sliding_window=6,
                                           max_window_layers=2, mlp_only_layers=[1], **MOE)),
    "qwen3_moe": ("qwen3_moe", dict(num_experts=6, head_dim=32, norm_topk_prob=True, **MOE)),
    "qwen3_moe-raw": ("qwen3_moe", dict(num_experts=6, head_dim=16, norm_topk_prob=False, attention_bias=True, **MOE)),
    "qwen3_moe-sparse": ("qwen3_moe", dict(num_experts=6, head_dim=16, decoder_sparse_step=2, mlp_only_layers=[1], norm_topk_prob=True, **MOE)),
    "qwen3_moe-window": ("qwen3_moe", dict(num_experts=7, head_dim=16, use_sliding_window=True, sliding_window=6, norm_topk_prob=True, **MOE)),
    "deepseek_v2": ("deepseek_v2", dict(**DEEPSEEK)),
    "deepseek_v2-queries": ("deepseek_v2", {**DEEPSEEK, **dict(q_lora_rank=20, attention_bias=True, routed_scaling_factor=1.7)}),
    "deepseek_v2-groups": ("deepseek_v2", dict(topk_method="group_limited_greedy", n_group=4, topk_group=1, **DEEPSEEK)),
    "deepseek_v2-yarn": ("deepseek_v2", dict(rope_parameters=dict(rope_theta=10000.0, **ROPES["yarn_mscale"]), **DEEPSEEK)),
    "olmoe": ("olmoe", dict(num_experts=6, num_experts_per_tok=2)),
    "olmoe-clipped": ("olmoe", dict(num_experts=6, num_experts_per_tok=3, clip_qkv=0.8, norm_topk_prob=True)),
    "olmoe-mha-biased": ("olmoe", dict(num_experts=4, num_experts_per_tok=1, num_key_value_heads=4, attention_bias=True)),
    "phi3": ("phi3", {}),
    "phi3-window": ("phi3", dict(sliding_window=9, tie_word_embeddings=True)),
    "phi3-longrope": ("phi3", dict(original_max_position_embeddings=32, rope_parameters=dict(rope_theta=10000.0, **ROPES["longrope"]))),
    "phi3-partial": ("phi3", dict(rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.75), num_key_value_heads=1)),
    "gemma2": ("gemma2", GEMMA),
    "gemma2-window": ("gemma2", dict(sliding_window=9, **GEMMA)),
    "gemma2-uncapped": ("gemma2", dict(attn_logit_softcapping=None, final_logit_softcapping=None, query_pre_attn_scalar=40, attention_bias=True, **GEMMA)),
    "gemma3_text": ("gemma3_text", dict(sliding_window=9, **GEMMA, **{"num_hidden_layers": 7})),
    "gemma3_text-scaled": ("gemma3_text", dict(sliding_window=6, layer_types=["sliding_attention", "full_attention", "sliding_attention"], **GEMMA, rope_parameters={
        "full_attention": dict(rope_theta=1e6, rope_type="linear", factor=8.0), "sliding_attention": dict(rope_theta=5e3, rope_type="default")})),
    "gemma3_text-capped": ("gemma3_text", dict(final_logit_softcapping=7.0, query_pre_attn_scalar=24, **GEMMA)),
    "deepseek_v3": ("deepseek_v3", dict(n_group=4, topk_group=2, **DEEPSEEK)),
    "deepseek_v3-halves": ("deepseek_v3", {**DEEPSEEK, **dict(n_group=1, topk_group=1, rope_interleave=False, norm_topk_prob=False, q_lora_rank=20, attention_bias=True)}),
    "deepseek_v3-yarn": ("deepseek_v3", dict(n_group=2, topk_group=1, rope_parameters=dict(rope_theta=10000.0, **ROPES["yarn_mscale"]), **DEEPSEEK)),
    "glm4_moe": ("glm4_moe", GLM),
    "glm4_moe-normed": ("glm4_moe", dict(use_qk_norm=True, attention_bias=True, n_group=2, topk_group=1, **GLM)),
    "glm4_moe-raw": ("glm4_moe", {**GLM, **dict(norm_topk_prob=False, first_k_dense_replace=0, head_dim=16, rope_parameters=dict(rope_type="default", rope_theta=1e4, partial_rotary_factor=0.25))}),
    "gpt_oss": ("gpt_oss", GPT_OSS),
    "gpt_oss-plain-rope": ("gpt_oss", dict(rope_parameters=dict(rope_type="default", rope_theta=1e4), **{**GPT_OSS, "swiglu_limit": 1.5})),
    "gpt_oss-windows": ("gpt_oss", {**GPT_OSS, **dict(sliding_window=5, layer_types=["full_attention", "sliding_attention", "sliding_attention"], num_experts_per_tok=3)}),
    "granite": ("granite", GRANITE),
    "granite-plain": ("granite", dict(tie_word_embeddings=True)),
    "granite-biased": ("granite", dict(attention_bias=True, mlp_bias=True, **GRANITE)),
    "granitemoe": ("granitemoe", dict(num_local_experts=6, num_experts_per_tok=2, **GRANITE)),
    "granitemoe-tied": ("granitemoe", dict(num_local_experts=4, num_experts_per_tok=3, tie_word_embeddings=True, **GRANITE)),
    "granitemoe-biased": ("granitemoe", dict(num_local_experts=4, num_experts_per_tok=1, attention_bias=True, **GRANITE)),
    "granitemoeshared": ("granitemoeshared", dict(num_local_experts=6, num_experts_per_tok=2, shared_intermediate_size=40, **GRANITE)),
    "granitemoeshared-none": ("granitemoeshared", dict(num_local_experts=6, num_experts_per_tok=2, shared_intermediate_size=0, **GRANITE)),
    "granitemoeshared-tied": ("granitemoeshared", dict(num_local_experts=4, num_experts_per_tok=2, shared_intermediate_size=96, tie_word_embeddings=True)),
    "olmo2": ("olmo2", {}),
    "olmo2-mha": ("olmo2", dict(num_key_value_heads=4, attention_bias=True)),
    "olmo2-yarn": ("olmo2", dict(tie_word_embeddings=True, rope_parameters=dict(rope_theta=5e5, **ROPES["yarn"]))),
    "smollm3": ("smollm3", dict(num_hidden_layers=5)),
    "smollm3-listed": ("smollm3", dict(no_rope_layers=[0, 1, 0], attention_bias=True, mlp_bias=True)),
    "smollm3-window": ("smollm3", dict(no_rope_layer_interval=2, use_sliding_window=True, sliding_window=7, tie_word_embeddings=True)),
    "starcoder2": ("starcoder2", {}),
    "starcoder2-window": ("starcoder2", dict(sliding_window=9, tie_word_embeddings=True)),
    "starcoder2-unbiased": ("starcoder2", dict(use_bias=False, hidden_act="gelu", norm_epsilon=1e-3)),
    "phimoe": ("phimoe", dict(num_local_experts=6, router_jitter_noise=0.05)),
    "phimoe-biased": ("phimoe", dict(num_local_experts=4, attention_bias=True, lm_head_bias=True, router_jitter_noise=0.3)),
    # Within the trained length: beyond it transformers keeps the short factors, the code of the model's card does not.
    "phimoe-longrope": ("phimoe", dict(num_local_experts=4, sliding_window=11, original_max_position_embeddings=64, rope_parameters={
        **ROPES["longrope"], **dict(rope_theta=1e4, short_mscale=1.2, long_mscale=1.3, original_max_position_embeddings=64)})),
    "llama4_text": ("llama4_text", LLAMA4),
    "llama4_text-dense-between": ("llama4_text", dict(interleave_moe_layer_step=2, use_qk_norm=False, attention_bias=True, **LLAMA4)),
    "llama4_text-tuned": ("llama4_text", {**LLAMA4, **dict(num_hidden_layers=3, no_rope_layers=[1, 0, 1], floor_scale=8, attn_scale=0.5, attention_chunk_size=7, num_experts_per_tok=2)}),
    "dbrx": ("dbrx", dict(attn_config=dict(rope_theta=1e4, kv_n_heads=2, clip_qkv=0.8), **DBRX)),
    "dbrx-mha": ("dbrx", dict(attn_config=dict(rope_theta=1e4, kv_n_heads=4, clip_qkv=8), **DBRX)),
    "dbrx-top1": ("dbrx", {**DBRX, **dict(attn_config=dict(rope_theta=1e4, kv_n_heads=1, clip_qkv=1.5), rope_parameters=dict(rope_type="default", rope_theta=5e5),
                                          ffn_config=dict(ffn_hidden_size=40, moe_num_experts=5, moe_top_k=1))}),
}


def randomize(model):
    """Weights large enough that every part of the model shows in the logits."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name.split(".")[-2]:
                parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
            elif parameter.dim() == 1:
                parameter.copy_(0.3 * torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) * 1.3 / parameter.shape[-1] ** 0.5)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(0.2 * torch.randn_like(buffer))


def make_model(model_type, changes, seed=0):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**SMALL, **changes}), dtype=torch.float32)
    randomize(model)
    return model.eval()


def save_variant(name, directory, seed=0, **save_options):
    model = make_model(*VARIANTS[name], seed=seed)
    model.save_pretrained(directory, **save_options)
    return model


def run(*arguments, check=True, **options):
    result = subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, **options)
    if check and result.returncode != 0:
        raise AssertionError(f"mixwright {' '.join(map(str, arguments))}: exit {result.returncode}\n{result.stderr}")
    return result


def our_logits(model_dir, ids, tmp_path, *options):
    ids_file, out = tmp_path / "ids.json", tmp_path / "logits.safetensors"
    ids_file.write_text(json.dumps(ids))
    run("logits", model_dir, "--ids", ids_file, "-o", out, *options)
    return load_file(out)["logits"]
