"""The layout keeps to its rules: imports go down one list, files stay short, public names are there."""

import ast
from importlib import import_module
from pathlib import Path

import pytest
from commands import ROOT

import lit_diffusion

SRC = ROOT / "src" / "lit_diffusion"
ROOMS = [  # a module imports from its own room and from those below it
    "figures",
    "study",
    "evaluate",
    "edit",
    "sample",
    "train",
    "export",
    "features",
    "loading",
    "checkpoint",
    "averages",
    "interop",
    "combinators",
    "guidance",
    "samplers",
    "denoiser",
    "predictions",
    "conditions",
    "couplings",
    "weightings",
    "times",
    "schedules",
    "models",
    "data",
    "common",
]
MODULES = sorted(path for path in SRC.rglob("*.py") if path.parent != SRC or not path.name.startswith("__"))


def room_of(path: Path) -> str:
    return path.relative_to(SRC).with_suffix("").parts[0]


def imported_rooms(path: Path) -> set[str]:
    """The rooms that a module imports from, anywhere in it."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("lit_diffusion.")}


def test_every_module_is_in_a_room_of_the_list():
    assert {room_of(path) for path in MODULES} == {*ROOMS}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SRC)))
def test_imports_go_down_the_list(path):
    above = ROOMS[: ROOMS.index(room_of(path))]
    assert not imported_rooms(path) & {*above}


def test_files_are_short_and_few_lie_in_the_root():
    lengths = {path.relative_to(SRC): len(path.read_text().splitlines()) for path in MODULES}
    assert {path: length for path, length in lengths.items() if length > 300} == {}
    assert len(list(SRC.glob("*.py"))) <= 15


@pytest.mark.parametrize("tool", sorted(path.stem for path in (ROOT / "tests" / "tools").glob("[!t]*.py")))
def test_every_tool_can_be_imported(tool):
    import_module(tool)


def test_the_public_names_are_there():
    for name in lit_diffusion.__all__:
        assert getattr(lit_diffusion, name).__name__ == name
    assert {*lit_diffusion.__all__} <= {*dir(lit_diffusion)}
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        lit_diffusion.Nothing  # noqa: B018


def test_the_public_names_are_in_the_documentation():
    pages = "".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
    modules = {getattr(lit_diffusion, name).__module__ for name in lit_diffusion.__all__}
    assert {module for module in modules if f"automodule:: {module}\n" not in pages} == set()
