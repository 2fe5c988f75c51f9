"""Several ranks train against one: the same losses, whoever keeps what, and what happens when one of them is killed."""

import json
import signal
import time

import pytest
import torch
from ranks import finish, start_ranks
from safetensors.torch import load_file
from test_train import BATCH, cut_after_first_save, losses_of, setup, train  # noqa: F401

AUXILIARY = dict(sequence_balance_loss=0.01, balance_loss=0.02, router_z_loss=0.001)


def metrics(out, key):
    return [line[key] for line in map(json.loads, (out / "train_metrics.jsonl").read_text().splitlines()) if key in line]


# The experts whole on every rank, or divided; a batch at once, or in two parts; kept activations, or computed again.
@pytest.mark.parametrize("count, changes", [
    (2, dict()),
    (2, dict(batch_size=BATCH // 2, grad_accumulation=2)),
    (2, dict(expert_parallel=2)),
    (2, dict(expert_parallel=2, checkpointing=True, batch_size=BATCH // 2, grad_accumulation=2)),
    (4, dict(expert_parallel=2)),
    (3, dict(expert_parallel=3, batch_size=3)),
])
def test_ranks_train_as_one(count, changes, setup, tmp_path):
    recipe, _ = setup("qwen2_moe", held_out=0.1, eval_every=10, **AUXILIARY, **changes)
    _, alone = train(recipe, tmp_path / "alone")
    finish(start_ranks(count, "train", recipe, tmp_path / "together"))
    assert losses_of(tmp_path / "together") == pytest.approx(alone, rel=1e-5)
    for key in ("auxiliary_loss", "gradient_norm", "eval_loss", "largest_load"):
        assert metrics(tmp_path / "together", key) == pytest.approx(metrics(tmp_path / "alone", key), rel=1e-3), key
    ours, theirs = (load_file(tmp_path / out / "model.safetensors") for out in ("together", "alone"))
    assert ours.keys() == theirs.keys() and all((ours[name] - theirs[name]).abs().max() < 0.01 for name in ours)


@pytest.mark.parametrize("trainable", ["experts", "router", "lora"])
def test_ranks_train_parts_as_one(trainable, setup, tmp_path):
    changes = {} if trainable == "lora" else dict(expert_parallel=2)
    recipe, _ = setup("qwen2_moe", trainable=trainable, steps=8, **changes)
    _, alone = train(recipe, tmp_path / "alone")
    finish(start_ranks(2, "train", recipe, tmp_path / "together"))
    assert losses_of(tmp_path / "together") == pytest.approx(alone, rel=1e-5)


def test_ranks_in_bf16_keep_f32_masters(setup, tmp_path):
    recipe, _ = setup("qwen2_moe", dtype="bfloat16", expert_parallel=2, steps=12, save_every=5)
    finish(start_ranks(2, "train", recipe, tmp_path / "together"))
    _, alone = train(recipe, tmp_path / "alone")
    assert losses_of(tmp_path / "together") == pytest.approx(alone, rel=0.02)
    weights = load_file(tmp_path / "together/model.safetensors")["model.layers.0.mlp.experts.3.up_proj.weight"]
    assert not torch.equal(weights, weights.to(torch.bfloat16).to(weights.dtype)), "what is written are the masters"


@pytest.mark.parametrize("changes, message", [
    (dict(batch_size=3), "batch_size 3 does not divide among 2 ranks"),
    (dict(expert_parallel=3), "2 ranks do not divide into groups of 3"),
])
def test_ranks_that_do_not_fit_are_refused(changes, message, setup, tmp_path):
    recipe, _ = setup("qwen2_moe", **changes)
    ranks = start_ranks(2, "train", recipe, tmp_path / "out")
    assert all(rank.wait(60) == 2 for rank in ranks) and message in ranks[0].stderr.read()
    assert not (tmp_path / "out").exists()


def test_experts_that_do_not_divide_are_refused(setup, tmp_path):
    recipe, _ = setup("mixtral-top1", expert_parallel=2)
    ranks = start_ranks(2, "train", recipe, tmp_path / "out")
    assert all(rank.wait(60) == 2 for rank in ranks) and "5 experts do not divide among 2 ranks" in ranks[0].stderr.read()


@pytest.mark.parametrize("variant, changes", [("llama", {}), ("qwen2_moe", dict(expert_parallel=2))])
def test_a_killed_rank_ends_the_job_and_it_resumes(variant, changes, setup, tmp_path):
    recipe, _ = setup(variant, steps=150, save_every=5, **changes)
    ranks = start_ranks(2, "train", recipe, tmp_path / "out")
    while not (tmp_path / "out.training/state.safetensors").exists():
        assert all(rank.poll() is None for rank in ranks), [rank.stderr.read() for rank in ranks]
        time.sleep(0.01)
    ranks[1].kill()
    assert ranks[0].wait(60) == 1 and "another rank is gone" in ranks[0].stderr.read()
    assert not (tmp_path / "out").exists()
    ranks = start_ranks(2, "train", recipe, tmp_path / "out", "--resume") + start_ranks(2, "train", recipe, tmp_path / "whole")
    assert [rank.wait(120) for rank in ranks] == [0] * 4, [rank.stderr.read() for rank in ranks]
    assert losses_of(tmp_path / "out") == losses_of(tmp_path / "whole")


@pytest.mark.parametrize("before, after", [(1, 2), (2, 1), (2, 4), (4, 2)])
def test_a_job_resumes_on_another_number_of_ranks(before, after, setup, tmp_path):
    recipe, _ = setup("qwen2_moe", steps=60, save_every=20, expert_parallel=2)
    if before == 1:
        cut_after_first_save(recipe, tmp_path / "out")
    else:
        ranks = start_ranks(before, "train", recipe, tmp_path / "out")
        while not (tmp_path / "out.training/state.safetensors").exists():
            assert all(rank.poll() is None for rank in ranks), [rank.stderr.read() for rank in ranks]
            time.sleep(0.01)
        for rank in ranks:
            rank.kill()
            rank.wait()
    if after == 1:
        train(recipe, tmp_path / "out", "--resume")
    else:
        finish(start_ranks(after, "train", recipe, tmp_path / "out", "--resume"))
    _, alone = train(recipe, tmp_path / "alone")
    assert losses_of(tmp_path / "out") == pytest.approx(alone, rel=1e-3)


def test_an_interrupt_of_one_rank_stops_all_and_keeps_the_step(setup, tmp_path):
    recipe, _ = setup("qwen2_moe", steps=3000, save_every=0, expert_parallel=2)
    ranks = start_ranks(2, "train", recipe, tmp_path / "out")
    log = tmp_path / "out.training/metrics.jsonl"
    while not (log.exists() and log.read_text().count("\n") > 5):
        assert all(rank.poll() is None for rank in ranks), [rank.stderr.read() for rank in ranks]
        time.sleep(0.01)
    ranks[1].send_signal(signal.SIGINT)
    assert [rank.wait(60) for rank in ranks] == [130, 130]
    state = load_file(tmp_path / "out.training/state.safetensors")
    assert state["steps_done"].item() == log.read_text().count("\n")
    assert state["master/model.layers.0.mlp.experts.gate_up"].shape[0] == 6


def test_a_full_disk_of_the_first_rank_ends_all_and_keeps_the_old_state(setup, tmp_path):
    recipe, _ = setup("qwen2_moe", save_every=2, steps=2000)
    cut_after_first_save(recipe, tmp_path / "out")
    state = tmp_path / "out.training/state.safetensors"
    before = state.read_bytes()
    limit = len(before) // 2
    ranks = start_ranks(2, "train", recipe, tmp_path / "out", "--resume", limit=limit)
    assert ranks[0].wait(60) in (1, 4) and ranks[1].wait(60) == 1
    assert "state.safetensors" in ranks[0].stderr.read() and "another rank is gone" in ranks[1].stderr.read()
    assert state.read_bytes() == before and not (tmp_path / "out").exists()
