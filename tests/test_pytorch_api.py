"""The page that lists PyTorch's API says what the code says."""

from __future__ import annotations

import importlib.util
import json
import tomllib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "docs" / "pytorch_api"


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate_pytorch_api", FOLDER / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_is_up_to_date(generate):
    advice = "run: python docs/pytorch_api/generate.py"
    assert generate.PAGE.read_text() == generate.generated(), advice


def test_notes_speak_of_names_that_exist():
    names = json.loads((FOLDER / "torch.json").read_text())["names"]
    known = {f"{place}.{name}" for place, entries in names.items() for name in entries}
    notes = tomllib.loads((FOLDER / "notes.toml").read_text())
    assert {*notes["differs"], *notes["documented_otherwise"]} <= known


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")  # PyTorch warns of names that it will remove
def test_what_is_said_of_pytorch_is_so(generate):
    torch = pytest.importorskip("torch")
    stored = json.loads((FOLDER / "torch.json").read_text())
    if torch.__version__.split("+")[0] != stored["version"]:
        pytest.skip(f"the page compares with PyTorch {stored['version']}")
    for place, entries in stored["names"].items():
        owner = generate.resolve(place)
        if owner is None:
            assert place.startswith(("torchvision", "torch.utils.tensorboard"))  # not installed
            continue
        for name, parameters in entries.items():
            assert hasattr(owner, name), f"{place}.{name}"
            assert generate.parameters(getattr(owner, name), name) == parameters


def test_a_missing_parameter_is_seen(generate):
    def ours(input, dim=None): ...

    assert generate.missing_parameters(ours, ["input", "dim", "keepdim"], set()) == ["keepdim"]
    assert generate.missing_parameters(ours, ["input", "out"], {"out"}) == []
    rows = generate.table(
        {"torch.nn": {"Linear": ["in_features", "speed"], "NoSuchLayer": None, "ReLU": None}},
        {
            "everywhere": {},
            "out_of_scope": {"torch.never": ""},
            "differs": {},
            "documented_otherwise": {},
        },
    )
    assert rows["torch.nn"]["yes"] == ["ReLU"]
    assert rows["torch.nn"]["differs"] == {"Linear": "without `speed`"}
    assert rows["torch.nn"]["no"] == ["NoSuchLayer"]
