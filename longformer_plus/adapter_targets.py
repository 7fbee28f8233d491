"""The layers that PEFT adapts by default, as entries in PEFT's own tables.

PEFT matches names exactly: the targets "query" and "value" miss `query_global` and `value_global`, so that the
projections of the global rows would not be adapted. PEFT is not imported here. It reads its tables when it adapts a
model, so the entries are made right after its import.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_MODULE = "peft.utils.constants"
_TABLE = re.compile("TRANSFORMERS_MODELS_TO_(.+)_MODULES_MAPPING")

_QUERY_AND_VALUE = ["query", "value", "query_global", "value_global"]
_LINEAR = [*_QUERY_AND_VALUE, "key", "key_global", "intermediate.dense", "output.dense"]
# The layers that each method adapts in BERT and RoBERTa, with their global counterparts. Other methods adapt query and
# value.
_TARGETS = {
    "ADALORA_TARGET": _LINEAR,
    "BEFT_TARGET": ["value", "value_global"],
    "IA3_FEEDFORWARD": ["output.dense"],
    "IA3_TARGET": ["key", "value", "key_global", "value_global", "output.dense"],
    "LNTUNING_TARGET": ["LayerNorm"],
    "OSF_TARGET": _LINEAR,
    "VBLORA_TARGET": _LINEAR,
}

_model_types: set[str] = set()


def add_adapter_targets(model_type: str) -> None:
    """Add default target modules of a model type for each of PEFT's methods: now, or as soon as PEFT is imported.

    PEFT's own entries for this type stay.
    """
    _model_types.add(model_type)
    if _MODULE in sys.modules:
        _fill_tables(sys.modules[_MODULE])
    elif not any(isinstance(finder, _TableFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TableFinder())


def remove_adapter_targets(model_type: str) -> None:
    """Undo `add_adapter_targets` for a model type."""
    _model_types.discard(model_type)
    if _MODULE in sys.modules:
        for method, table in _tables(sys.modules[_MODULE]).items():
            if table.get(model_type) is _TARGETS.get(method, _QUERY_AND_VALUE):
                del table[model_type]


def default_targets(method: str, model_type: str) -> dict[str, list[str]]:
    """The arguments of a PEFT configuration that name the target modules, if PEFT's tables do not.

    Args:
        method: the method's name, of `peft.PeftType`.
        model_type: a type passed to `add_adapter_targets`.

    Returns:
        `target_modules`, and for IA3 `feedforward_modules`; empty if the type is in PEFT's tables.
    """
    if _MODULE in sys.modules and any(model_type in table for table in _tables(sys.modules[_MODULE]).values()):
        return {}
    name = method.replace("_", "")
    targets = {"target_modules": _TARGETS.get(f"{name}_TARGET", _QUERY_AND_VALUE)}
    if name == "IA3":
        targets["feedforward_modules"] = _TARGETS["IA3_FEEDFORWARD"]
    return targets


def _fill_tables(module: ModuleType) -> None:
    for method, table in _tables(module).items():
        for model_type in _model_types:
            table.setdefault(model_type, _TARGETS.get(method, _QUERY_AND_VALUE))


def _tables(module: ModuleType) -> dict[str, dict[str, list[str]]]:
    """PEFT's tables of target modules by method.

    The tables are not public. Where PEFT has none, the target modules must be named: see `default_targets`.
    """
    matches = ((_TABLE.fullmatch(name), table) for name, table in vars(module).items())
    return {match[1]: table for match, table in matches if match and isinstance(table, dict)}


class _TableFinder(MetaPathFinder):
    """Finds PEFT's module of tables as Python does, and fills the tables once the module is loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_and_fill(module: ModuleType) -> None:
            load(module)
            _fill_tables(module)

        spec.loader.exec_module = load_and_fill  # type: ignore[method-assign]
        return spec
