"""`zip --method heapr` keeps the neurons that PyTorch's own gradients would keep."""

import json

import torch
from calibration_text import save_text, save_tokenizer
from safetensors.torch import load_file
from tiny_models import run, save_variant

CTX = 48


def sequences(tokenizer, path, tokens):
    ids = (tokenizer.encode(path.read_text()).ids + [tokenizer.token_to_id("<|end|>")])[:tokens]
    length = max(8, min(len(ids) // 8, CTX))
    return torch.tensor(ids[: len(ids) // length * length]).reshape(-1, length)


def scores(model, weights, ids, top_k, experts):
    """1/2 the sum over tokens of (G . o_k)^2 for every neuron, [layer][expert][neuron], with G from a backward pass through the model."""
    seen = {}

    def keep(layer):
        def hook(module, inputs, output):
            output.retain_grad()
            seen[layer] = inputs[0], output
        return hook

    for layer, block in enumerate(model.model.layers):
        block.mlp.register_forward_hook(keep(layer))
    logits = model(ids).logits
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum").backward()
    result = []
    for layer in range(len(model.model.layers)):
        name = f"model.layers.{layer}.mlp"
        x, gradient = seen[layer][0].detach().flatten(0, 1), seen[layer][1].grad.flatten(0, 1)
        gates, chosen = (x @ weights[f"{name}.gate.weight"].T).softmax(-1).topk(top_k, -1)
        gates = gates / gates.sum(-1, keepdim=True)
        result.append([])
        for e in range(experts):
            g = (gates * (chosen == e)).sum(-1, keepdim=True)
            gate, up, down = (weights[f"{name}.experts.{e}.{part}_proj.weight"] for part in ["gate", "up", "down"])
            activation = torch.nn.functional.silu(x @ gate.T) * (x @ up.T) * g
            result[-1].append(((gradient @ down) * activation).square().sum(0) / 2)
    return result


def test_the_neurons_kept_are_those_the_loss_needs_most(tmp_path):
    model = save_variant("qwen3_moe", tmp_path / "model")
    tokenizer = save_tokenizer(tmp_path / "model")
    text = save_text(tmp_path / "text.txt", 120)
    done = run("zip", tmp_path / "model", tmp_path / "out", "--data", text, "--tokens", 900, "--ctx", CTX, "--method", "heapr", "--refit", "none",
               "--sequential", "off", "--keep", 0.5, "--threads", 1, "--json")
    assert json.loads(done.stdout)["method"] == "heapr"
    before, after = load_file(tmp_path / "model/model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    config = model.config
    wanted = scores(model, before, sequences(tokenizer, text, 900), config.num_experts_per_tok, config.num_experts)
    for layer, experts in enumerate(wanted):
        for e, score in enumerate(experts):
            name = f"model.layers.{layer}.mlp.experts.{e}"
            old, new = before[f"{name}.gate_proj.weight"], after[f"{name}.gate_proj.weight"]
            kept = [(old == row).all(1).nonzero().item() for row in new]
            best = score.sort(descending=True).values[: len(kept)].sum()
            assert score[kept].sum() >= best * (1 - 1e-3), "a tie may fall either way, nothing else"
            assert torch.equal(after[f"{name}.down_proj.weight"], before[f"{name}.down_proj.weight"][:, kept]), "the maps stay as they were"
    assert not (tmp_path / "out.layers").exists()

