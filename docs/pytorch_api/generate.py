"""Write docs/pytorch_api.md: what of PyTorch's training API allgrad has.

    python docs/pytorch_api/generate.py             # the page, from torch.json and notes.toml
    python docs/pytorch_api/generate.py --collect   # torch.json anew (needs torch and torchvision)

A name is **yes** when allgrad has it under the same name and no parameter of PyTorch's is known to
be missing; **differs** when one is, or notes.toml names a difference; else **no**. Parameters can
be compared where PyTorch shows a signature and ours is not ``*args``; the page says for how many
names that was so. What a yes computes is a matter of the tables in tests/.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import inspect
import json
import re
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "pytorch_api.md"
NAMES = FOLDER / "torch.json"
NOTES = FOLDER / "notes.toml"

# PyTorch's name of the place, allgrad's, and what to look at there.
PLACES = {
    "torch": ("allgrad", "functions"),
    "torch.Tensor": ("allgrad.Tensor", "methods"),
    "torch.linalg": ("allgrad.linalg", "functions"),
    "torch.nn": ("allgrad.nn", "classes"),
    "torch.nn.functional": ("allgrad.nn.functional", "functions"),
    "torch.nn.Module": ("allgrad.nn.Module", "methods"),
    "torch.nn.init": ("allgrad.nn.init", "functions"),
    "torch.nn.utils": ("allgrad.nn.utils", "functions"),
    "torch.nn.utils.rnn": ("allgrad.nn.utils.rnn", "all"),
    "torch.nn.utils.prune": ("allgrad.nn.utils.prune", "all"),
    "torch.nn.utils.parametrize": ("allgrad.nn.utils.parametrize", "all"),
    "torch.nn.utils.parametrizations": ("allgrad.nn.utils.parametrizations", "functions"),
    "torch.autograd": ("allgrad.autograd", "all"),
    "torch.autograd.functional": ("allgrad.autograd.functional", "functions"),
    "torch.amp": ("allgrad.amp", "all"),
    "torch.optim": ("allgrad.optim", "classes"),
    "torch.optim.lr_scheduler": ("allgrad.optim.lr_scheduler", "classes"),
    "torch.optim.swa_utils": ("allgrad.optim.swa_utils", "all"),
    "torch.utils.data": ("allgrad.utils.data", "all"),
    "torch.utils.checkpoint": ("allgrad.utils.checkpoint", "functions"),
    "torch.utils.dlpack": ("allgrad.utils.dlpack", "functions"),
    "torch.utils.tensorboard": ("allgrad.utils.tensorboard", "classes"),
    "torch.onnx": ("allgrad.onnx", "functions"),
    "torch.cuda": ("allgrad.cuda", "functions"),
    "torch.distributed": ("allgrad.ddp", "all"),
    "torch.nn.parallel": ("allgrad.ddp", "classes"),
    "torchvision.datasets": ("allgrad.vision.datasets", "classes"),
    "torchvision.models": ("allgrad.vision.models", "functions"),
    "torchvision.transforms": ("allgrad.vision.transforms", "classes"),
    "torchvision.transforms.functional": ("allgrad.vision.transforms.functional", "functions"),
    "torchvision.utils": ("allgrad.vision.utils", "functions"),
}


def resolve(path: str) -> Any:
    """The module, class or function called `path`, or None."""
    parts = path.split(".")
    found: Any = None
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        break
    for name in parts[end:]:
        found = getattr(found, name, None)
    return found


# -- PyTorch's side ------------------------------------------------------------------------------
def collect() -> dict[str, dict[str, list[str] | None]]:
    """Per place the public names and, where they can be had, the names of their parameters."""
    return {place: dict(sorted(_names(place, kind))) for place, (_, kind) in PLACES.items()}


def _names(place: str, kind: str) -> Iterator[tuple[str, list[str] | None]]:
    owner = resolve(place)
    listed = getattr(owner, "__all__", None) if place != "torch" else None
    for name in listed or dir(owner):
        value = getattr(owner, name, None)
        if name.startswith("_") or not callable(value) or inspect.ismodule(value):
            continue
        foreign = getattr(value, "__module__", None) or "torch"
        is_class = inspect.isclass(value)
        if not foreign.startswith("torch") or foreign.startswith("torch._jit"):
            continue  # what a module merely imported
        if (kind == "classes" and not is_class) or (kind == "functions" and is_class):
            continue
        yield name, parameters(value, name)


def parameters(value: Any, name: str) -> list[str] | None:
    """Names of the parameters; of a built-in, those of all signatures its docstring begins with."""
    try:
        names = [
            p.name
            for p in inspect.signature(value).parameters.values()
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        if names:
            return [n for n in names if n != "self" and not n.startswith("_")]
    except (TypeError, ValueError):
        pass
    found: list[str] = []
    pattern = rf"^\s*(?:torch\.)?{re.escape(name)}\((.*?)\) *->"
    for arguments in re.findall(pattern, value.__doc__ or "", re.MULTILINE):
        for argument in re.split(r",\s*(?![^(\[]*[)\]])", arguments):
            key = argument.split("=")[0].split(":")[0].strip()
            if key.isidentifier() and key not in found:
                found.append(key)
    return found or None


# -- allgrad's side ------------------------------------------------------------------------------
def missing_parameters(ours: Any, theirs: list[str] | None, everywhere: set[str]) -> list[str]:
    """Which of PyTorch's parameters `ours` does not take."""
    if theirs is None:
        return []
    try:
        known = inspect.signature(ours).parameters.values()
    except (TypeError, ValueError):
        return []
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in known):
        return []
    names = {p.name for p in known}
    return [n for n in theirs if n not in names and n not in everywhere]


def comparable(ours: Any, theirs: list[str] | None) -> bool:
    """Whether both sides show their parameters."""
    try:
        kinds = {p.kind for p in inspect.signature(ours).parameters.values()}
    except (TypeError, ValueError):
        return False
    variable = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    return theirs is not None and not kinds & variable


def table(names: dict[str, Any], notes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Per place: the names that are there, those that differ and how, those that are not there."""
    out_of_scope = re.compile("|".join(f"(?:{p})" for p in notes["out_of_scope"]))
    result = {}
    for place, entries in names.items():
        owner = resolve(PLACES[place][0])
        rows: dict[str, Any] = {"yes": [], "differs": {}, "no": [], "out": 0, "compared": 0}
        for name, theirs in entries.items():
            path = f"{place}.{name}"
            ours = getattr(owner, name, None) if owner is not None else None
            note = notes["differs"].get(path)
            rows["compared"] += ours is not None and comparable(ours, theirs)
            if ours is None:
                if out_of_scope.fullmatch(path):
                    rows["out"] += 1
                else:
                    rows["no"].append(name)
                continue
            ignored = {*notes["everywhere"], *notes["documented_otherwise"].get(path, ())}
            lacking = missing_parameters(ours, theirs, ignored)
            remarks = [note] if note else []
            if lacking:
                remarks.append("without " + ", ".join(f"`{n}`" for n in lacking))
            if remarks:
                rows["differs"][name] = "; ".join(remarks)
            else:
                rows["yes"].append(name)
        result[place] = rows
    return result


def page(rows: dict[str, dict[str, Any]], notes: dict[str, Any], version: str) -> str:
    """The page as Markdown."""
    counts = [sum(len(r[k]) for r in rows.values()) for k in ("yes", "differs", "no")]
    out, compared = (sum(r[k] for r in rows.values()) for k in ("out", "compared"))
    lines = [
        "# PyTorch's training API in allgrad",
        "",
        f"Compared with PyTorch {version}: **{counts[0]} names yes, {counts[1]} differ, "
        f"{counts[2]} no**; {out} more are out of scope. Written by "
        "`python docs/pytorch_api/generate.py` from the code: a name is *yes* when allgrad has it "
        "and no parameter of PyTorch's is known to be missing. Parameters were compared for "
        f"{compared} of the {counts[0] + counts[1]} names; the rest show none on one of the sides. "
        "The tables of `tests/` compare what ops, functions, layers, losses, optimizers and "
        "schedules compute; the page itself says nothing of that.",
        "",
        "Everywhere:",
        "",
        *(f"* `{name}`: {text}" for name, text in notes["everywhere"].items()),
        "",
        "Out of scope:",
        "",
        *(f"* {text}" for text in dict.fromkeys(notes["out_of_scope"].values())),
        "",
    ]
    for place, row in rows.items():
        lines += [f"## {place}", ""]
        if row["yes"]:
            names = ", ".join(f"`{n}`" for n in row["yes"])
            lines += [*textwrap.wrap(f"**yes** ({len(row['yes'])}): {names}", 110), ""]
        if row["differs"]:
            lines += ["| differs | how |", "|---|---|"]
            lines += [f"| `{n}` | {text} |" for n, text in row["differs"].items()] + [""]
        if row["no"]:
            names = ", ".join(f"`{n}`" for n in row["no"])
            lines += [*textwrap.wrap(f"**no** ({len(row['no'])}): {names}", 110), ""]
    return "\n".join(lines).rstrip() + "\n"


def generated() -> str:
    """The page as it should stand now."""
    stored = json.loads(NAMES.read_text())
    notes = tomllib.loads(NOTES.read_text())
    return page(table(stored["names"], notes), notes, stored["version"])


def main() -> None:
    """Write the page, or collect PyTorch's names first."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--collect", action="store_true", help="write torch.json anew first")
    if parser.parse_args().collect:
        for name in ("torch", "torchvision"):
            importlib.import_module(name)  # or say so, before names are lost
        stored = {"version": importlib.metadata.version("torch").split("+")[0], "names": collect()}
        NAMES.write_text(json.dumps(stored, indent=0) + "\n")
    PAGE.write_text(generated())


if __name__ == "__main__":
    main()
