from __future__ import annotations

import re
from pathlib import Path

import pytest

import longformer_plus

ROOT = Path(__file__).parents[1]
MAPPED = {"integrations": "longformer_plus.integrations", "demo": "longformer_plus.demo"}


@pytest.fixture(scope="module")
def project() -> dict:
    tomllib = pytest.importorskip("tomllib")  # in the standard library from Python 3.11
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_folder_with_code_is_packaged(project: dict) -> None:
    """The list is written by hand, since folders beside the package are mapped into it: compare it with the tree."""
    found = set()
    for folder in ("longformer_plus", *MAPPED):
        for path in (ROOT / folder).rglob("__init__.py"):
            parts = path.parent.relative_to(ROOT).parts
            found.add(".".join((MAPPED.get(parts[0], parts[0]), *parts[1:])))
    assert set(project["tool"]["setuptools"]["packages"]) == found


def test_the_version_stands_in_one_place(project: dict) -> None:
    from importlib.metadata import version

    assert project["project"]["dynamic"] == ["version"]
    assert version("longformer-plus") == longformer_plus.__version__


def test_the_space_pins_what_the_demo_needs(project: dict) -> None:
    folder = ROOT / "docs" / "examples" / "space"
    lines = (folder / "requirements.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    wanted = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["demo"], "peft"]
    names = {re.split("[<>=[]", requirement)[0] for requirement in wanted} - {"longformer-plus"}
    assert set(pinned) == names
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    assert {f"{name}=={version}" for name, version in pinned.items()} <= set(constraints)
    assert f"sdk_version: {pinned['gradio']}\n" in (folder / "README.md").read_text()


def test_the_package_is_typed() -> None:
    assert (Path(longformer_plus.__file__).parent / "py.typed").is_file()
