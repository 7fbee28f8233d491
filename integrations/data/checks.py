"""Parts of the checks of rows. Each raises a ValueError that says what the row has and what is allowed."""

from __future__ import annotations

from typing import Any

from .sources import Row


class MissingColumnError(ValueError):
    """A row lacks a column. Its message names those that it has."""


def require(condition: bool, message: str) -> None:
    """Raise a ValueError with this message where the condition does not hold."""
    if not condition:
        raise ValueError(message)


def text_of(row: Row, name: str, optional: bool = False) -> str:
    """The string in a column; "" where the column is missing and optional."""
    if optional and row.get(name) is None:
        return ""
    _need(row, name)
    require(isinstance(row[name], str), f"{name!r} is {row[name]!r:.80}, not a string")
    return row[name]


def _need(row: Row, name: str) -> None:
    if name not in row:
        has = ", ".join(map(repr, row)) or "no columns"
        raise MissingColumnError(f"has no {name!r}; it has {has}. Name the column that holds it: --columns {name}=NAME")


def list_of(row: Row, name: str) -> list[Any]:
    """The list in a column."""
    _need(row, name)
    require(isinstance(row[name], list), f"{name!r} is {row[name]!r:.80}, not a list")
    return row[name]


def is_integer(value: Any) -> bool:
    """Whether it is an integer, or the text of one: of a table without types, every cell is text."""
    if isinstance(value, str):
        return value.strip().removeprefix("-").isdecimal()
    return isinstance(value, int) and not isinstance(value, bool)


def check_text(row: Row) -> None:
    """Check that the column "text" has some text."""
    require(bool(text_of(row, "text").strip()), "'text' is empty")
