"""torch .bin in: what torch.save writes, in its present and its former form, is what we read."""

import hashlib
import json
import os
import pickle
from collections import OrderedDict

import pytest
import torch
from tiny_models import our_logits, run, save_variant

FORMS = {"zip": {}, "legacy": dict(_use_new_zipfile_serialization=False)}


def inspect(directory):
    """name -> what inspect says of it. These directories are no models, so the command ends with 3."""
    (directory / "config.json").write_text('{"model_type": "none"}')
    result = run("inspect", directory, "--json", "-v", "--verify", check=False)
    assert result.stdout, result.stderr
    return {tensor["name"]: tensor for tensor in json.loads(result.stdout)["tensors"]}


def sha256(tensor):
    return hashlib.sha256(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def assert_same(ours, state):
    assert ours.keys() == state.keys()
    for name, tensor in state.items():
        assert (ours[name]["shape"], ours[name]["sha256"]) == (list(tensor.shape), sha256(tensor)), name


DTYPES = dict(F64=torch.float64, F32=torch.float32, F16=torch.float16, BF16=torch.bfloat16, I64=torch.int64, I32=torch.int32, I16=torch.int16,
              I8=torch.int8, U8=torch.uint8, BOOL=torch.bool, U16=torch.uint16, U32=torch.uint32, U64=torch.uint64, F8_E4M3=torch.float8_e4m3fn,
              F8_E5M2=torch.float8_e5m2)


@pytest.mark.parametrize("form", FORMS)
def test_every_dtype(form, tmp_path):
    state = {name: (torch.randn(3, 5) * 9).to(dtype) for name, dtype in DTYPES.items()}
    torch.save(state, tmp_path / "pytorch_model.bin", **FORMS[form])
    ours = inspect(tmp_path)
    assert_same(ours, state)
    assert all(ours[name]["dtype"] == name for name in DTYPES)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("form", FORMS)
def test_every_way_a_tensor_lies_in_its_storage(form, protocol, tmp_path):
    base = torch.arange(60, dtype=torch.float32).reshape(5, 12)
    state = OrderedDict(whole=base, tied=base, transposed=base.t(), row=base[2], column=base[:, 3], block=base[1:4, 2:9:3], scalar=base[4, 11],
                        one=base[:1], empty=torch.empty(0, 7), bf16=base.bfloat16(), parameter=torch.nn.Parameter(base.half()[::2]))
    torch.save(state, tmp_path / "pytorch_model.bin", pickle_protocol=protocol, **FORMS[form])
    assert_same(inspect(tmp_path), state)


def test_a_module_s_state_dict_with_its_metadata(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    torch.save(module.state_dict(), tmp_path / "pytorch_model.bin")
    assert_same(inspect(tmp_path), module.state_dict())
    torch.save({"epoch": 3, "loss": 0.5, "state_dict": module.state_dict()}, tmp_path / "pytorch_model.bin")
    assert_same(inspect(tmp_path), module.state_dict())


def test_shards_and_their_index(tmp_path):
    state = {f"t{i}": torch.randn(4, i + 1) for i in range(6)}
    files = {name: f"pytorch_model-0000{i % 2 + 1}-of-00002.bin" for i, name in enumerate(state)}
    for file in set(files.values()):
        torch.save({name: tensor for name, tensor in state.items() if files[name] == file}, tmp_path / file)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    assert_same(inspect(tmp_path), state)


@pytest.mark.parametrize("form", FORMS)
def test_a_whole_model_gives_the_same_logits(form, tmp_path):
    model = save_variant("llama-tied", tmp_path / "model")
    torch.save(model.state_dict(), tmp_path / "model/pytorch_model.bin", **FORMS[form])
    (tmp_path / "model/model.safetensors").unlink()
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        expected = model(ids).logits
    assert (our_logits(tmp_path / "model", ids.tolist(), tmp_path) - expected).abs().max() < 1e-4


class Hostile:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def touch(path):
    open(path, "w").close()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_code_is_refused_by_name_and_never_run(form, protocol, tmp_path):
    victim = tmp_path / "ran"
    for function, arguments, name in [(os.system, (f"touch {victim}",), f"{os.system.__module__}.system"), (eval, (f"open({str(victim)!r}, 'w')",), "eval"),
                                      (open, (str(victim), "w"), "open"), (touch, (str(victim),), "touch"), (getattr, (os, "system"), "getattr")]:
        try:
            torch.save({"w": torch.ones(1), "x": Hostile(function, *arguments)}, tmp_path / "pytorch_model.bin", pickle_protocol=protocol, **FORMS[form])
        except (pickle.PicklingError, TypeError):
            continue  # modules cannot be pickled
        (tmp_path / "config.json").write_text('{"model_type": "none"}')
        result = run("inspect", tmp_path, check=False)
        assert result.returncode == 3
        assert "the pickle names " in result.stderr and name in result.stderr and "at byte" in result.stderr
        assert not victim.exists()
