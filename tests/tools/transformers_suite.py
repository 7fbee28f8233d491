"""transformers' own model tests, taken from the source distribution of the installed version.

They are not in its wheel. `python -m tests.tools.transformers_suite` fetches them with pip into `.cache/`; where they
are missing, the tests that need them are skipped.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tarfile
import types
from pathlib import Path

import transformers

PACKAGE = "transformers_suite"
CACHE = Path(__file__).parents[2] / ".cache"
ROOT = CACHE / f"transformers-{transformers.__version__}" / "tests"

# Folders of the suite that the source distribution leaves out, and empty stand-ins for what the rest imports from them.
_LEFT_OUT: dict[str, dict[str, object]] = {
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
}


def is_available() -> bool:
    """Whether the suite of the installed version is in the cache."""
    return ROOT.is_dir()


def load(name: str) -> types.ModuleType:
    """A module of the suite, by its name there, such as "test_modeling_common"."""
    if PACKAGE not in sys.modules:
        package = types.ModuleType(PACKAGE)
        package.__path__ = [str(ROOT)]
        sys.modules[PACKAGE] = package
        for path, names in _LEFT_OUT.items():
            folder = types.ModuleType(f"{PACKAGE}.{path.split('.')[0]}")
            folder.__path__ = []
            module = types.ModuleType(f"{PACKAGE}.{path}")
            vars(module).update(names)
            sys.modules[folder.__name__] = folder
            sys.modules[module.__name__] = module
    return importlib.import_module(f"{PACKAGE}.{name}")


def fetch() -> None:
    """Put the suite of the installed version into the cache, unless it is there."""
    if is_available():
        return
    CACHE.mkdir(exist_ok=True)
    source = f"transformers=={transformers.__version__}"
    command = ["download", "--quiet", "--no-deps", "--no-binary", "transformers", "--dest", str(CACHE), source]
    subprocess.run([sys.executable, "-m", "pip", *command], check=True)
    archive = CACHE / f"transformers-{transformers.__version__}.tar.gz"
    with tarfile.open(archive) as tar:
        members = [member for member in tar.getmembers() if member.name.split("/")[1:2] == ["tests"]]
        tar.extractall(CACHE, members=members, filter="data")
    archive.unlink()


if __name__ == "__main__":
    fetch()
    print(ROOT)
