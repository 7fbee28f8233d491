"""What the documentation site adds to the pages in this folder; mkdocs runs it, see mkdocs.yml.

- The pages at the top of the repository, such as README.md, become pages of the site.
- The page on the command line is made of the command's own parsers.
- The package, with the folders that are mapped into it, is linked to one place, where mkdocstrings reads docstrings.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import posixpath
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from longformer_plus import cli

ROOT = Path(__file__).parents[1]
# Pages at the top of the repository, and what they are called on the site.
TOP_PAGES = {
    "README.md": "index.md",
    "MODEL_CARD.md": "model_card.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CITATION.cff": "citation.md",
    "LICENSE": "license.md",
}
LINK = re.compile(r"\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def on_startup(**_: object) -> None:
    """Copy the code of the package and of its mapped folders to one place. Links would be followed to their targets.

    It is done before mkdocstrings is configured, which forgets a path that does not exist.
    """
    package = ROOT / "build" / "reference" / "longformer_plus"
    shutil.rmtree(package, ignore_errors=True)
    for folder, target in (("longformer_plus", "."), ("integrations", "integrations"), ("demo", "demo")):
        for source in (ROOT / folder).rglob("*.py"):
            copy = package / target / source.relative_to(ROOT / folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in this folder."""
    for source, name in TOP_PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        content = text if source.endswith(".md") else f"# {source}\n\n```text\n{text}```\n"
        files.append(File.generated(config, name, content=content))
    files.append(File.generated(config, "reference/cli.md", content=command_page()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Let links lead to where pages of the repository are on the site."""
    name = page.file.src_uri
    source = next((top for top, generated in TOP_PAGES.items() if generated == name), f"docs/{name}")

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        if target not in TOP_PAGES and not target.startswith("docs/"):
            return match[0]
        place = TOP_PAGES.get(target, target.removeprefix("docs/"))
        return f"]({posixpath.relpath(place, posixpath.dirname(name) or '.')}{match[2] or ''})"

    return LINK.sub(moved, markdown)


def command_page() -> str:
    """The help of every subcommand."""
    # argparse breaks its lines by the width of the terminal.
    os.environ["COLUMNS"] = "100"
    parts = ["# Command line\n\nThis page is made of the command's own `--help`.\n"]
    for name, parser in subcommands():
        parts.append(f"## {name}\n\n```text\n{parser.format_help()}```\n")
    return "\n".join(parts)


def subcommands() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The name and the parser of each subcommand of `longformer-plus`: each is a module with a function `add`."""
    commands = argparse.ArgumentParser(prog="longformer-plus").add_subparsers()
    for module in pkgutil.iter_modules(cli.__path__):
        if module.name.startswith("_"):
            continue
        add = getattr(importlib.import_module(f"{cli.__name__}.{module.name}"), "add", None)
        if add is not None:
            add(commands)
    yield from commands.choices.items()
