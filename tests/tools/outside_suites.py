"""Other projects' own tests, taken from the source distribution of the version that is installed.

They are in no wheel. pip fetches them into `.cache/`; where they are missing, the tests that need them are skipped.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tarfile
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

CACHE = Path(__file__).parents[2] / ".cache"


@dataclass(frozen=True)
class Suite:
    """The folder `tests` of a project.

    Attributes:
        project: the name of its distribution.
        stand_ins: modules that the suite's own import and the installation lacks, with the names that are imported from
            them. A module's name starts with a dot where it belongs to the suite.
    """

    project: str
    stand_ins: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """The folder, for the installed version of the project."""
        return CACHE / f"{self.project}-{version(self.project)}" / "tests"

    def is_available(self) -> bool:
        """Whether the suite of the installed version is in the cache."""
        return self.root.is_dir()

    def load(self, name: str) -> types.ModuleType:
        """A module of the suite, by its name there, such as "test_modeling_common"."""
        package = f"{self.project}_suite"
        if package not in sys.modules:
            # A module of transformers' imports it by its path.
            (self.root / "__init__.py").touch()
            _add_module(package, self.root)
            for path, names in self.stand_ins.items():
                full = f"{package}{path}" if path.startswith(".") else path
                if not path.startswith(".") and importlib.util.find_spec(full) is not None:
                    continue
                for end in range(full.count("."), 0, -1):
                    parent = full.rsplit(".", end)[0]
                    if parent not in sys.modules:
                        _add_module(parent)
                vars(_add_module(full)).update(names)
        return importlib.import_module(f"{package}.{name}")

    def fetch(self) -> Path:
        """Put the suite of the installed version into the cache, unless it is there; its folder."""
        if not self.is_available():
            CACHE.mkdir(exist_ok=True)
            source = f"{self.project}=={version(self.project)}"
            command = ["download", "--quiet", "--no-deps", "--no-binary", self.project, "--dest", str(CACHE), source]
            subprocess.run([sys.executable, "-m", "pip", *command], check=True)
            archive = CACHE / f"{self.project}-{version(self.project)}.tar.gz"
            with tarfile.open(archive) as tar:
                members = [member for member in tar.getmembers() if member.name.split("/")[1:2] == ["tests"]]
                tar.extractall(CACHE, members=members, filter="data")
            archive.unlink()
        return self.root


def _add_module(name: str, *folders: Path) -> types.ModuleType:
    """A package with nothing in it but what its folders hold."""
    module = types.ModuleType(name)
    module.__path__ = [str(folder) for folder in folders]
    sys.modules[name] = module
    return module
