"""Write what was measured on the checkpoint into the tables of its model card, and its plots beside them.

python docs/examples/shipped/card.py OUT ROOT

OUT is what build.sh wrote. In ROOT/MODEL_CARD.md each table stands between `<!-- table: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from longformer_plus import LongformerPlusConfig

_STAGES = {
    "causal": "left to right, rows of 512",
    "short": "hidden words, rows of 512",
    "long": "hidden words, rows of 4096",
    "entities": "entities, LoRA of rank 16 on all linear layers",
}
_PLOTTED = ("short", "long")
_TEXTS = {
    "eips": "EIPs",
    "eltec_eng": "novels (ELTeC)",
    "litbank_gutenberg_novels": "novels (Gutenberg)",
    "openstax_ccby": "textbooks",
    "peps": "PEPs",
    "rust_rfcs": "Rust RFCs",
    "us_president_speeches": "speeches",
    "squad_v1": "Wikipedia (SQuAD's articles)",
}

Row = Iterable[object]


def read(path: Path) -> Any:
    """What a JSON file says."""
    return json.loads(path.read_text(encoding="utf-8"))


def facts(out: Path, package: Path) -> Iterator[Row]:
    """The model and its files."""
    config = LongformerPlusConfig.from_pretrained(package / "masked_lm")
    window = config.windows[0]
    megabytes = {
        name: sum(file.stat().st_size for file in (package / name).glob("*.safetensors")) / 1e6
        for name in ("masked_lm", "token_classification")
    }
    yield "", ""
    yield (
        "architecture",
        f"LongformerPlus: {config.num_hidden_layers} layers of {config.hidden_size} features, "
        f"{config.num_attention_heads} heads, feed-forward {config.intermediate_size}, a window of {window} tokens "
        f"({window // 2} on each side), {config.max_tokens} positions",
    )
    yield "vocabulary", f"{config.vocab_size} entries, byte-level BPE, learned from the same text"
    yield (
        "stored",
        f"in half precision, {megabytes['masked_lm']:.1f} MB; the adapter {megabytes['token_classification']:.1f} MB; "
        "loaded in single precision",
    )


def training(out: Path, package: Path) -> Iterator[Row]:
    """Each stage: its tokens, its minutes, those of parts that were stopped among them, and the machines."""
    seconds: Counter[str] = Counter()
    machines: dict[str, dict[str, None]] = {}
    for line in (out / "seconds").read_text(encoding="utf-8").splitlines():
        name, spent, machine = line.split(maxsplit=2)
        seconds[name] += int(spent)
        machines.setdefault(name, {})[machine] = None
    yield "step", "tokens", "time", "on"
    for name, title in _STAGES.items():
        tokens = read(out / name / "trainer_state.json")["num_input_tokens_seen"]
        yield title, f"{tokens / 1e6:.1f} M", f"{seconds[name] / 60:.1f} min", "; ".join(machines[name])
    yield "all of it, also the vocabulary and the scores", "", f"{sum(seconds.values()) / 60:.1f} min", ""


def hidden(out: Path, package: Path) -> Iterator[Row]:
    """Loss and accuracy on hidden tokens, by text, read in short and long pieces."""
    yield (
        "text",
        "stretches",
        "accuracy 512",
        "accuracy 4096",
        "loss 512",
        "loss 4096",
        "stretches where 4096 is no worse",
    )
    losses = []
    for file in ("hidden", "articles"):
        scores = read(out / "scores" / f"{file}.json")["scores"]
        for source in dict.fromkeys(name.split(".")[0] for name in scores):
            short, long = (
                next(found for name, found in scores.items() if name.startswith(source) and f", {length} " in name)
                for length in (512, 4096)
            )
            yield (
                _TEXTS[source],
                f"{long['stretches']:.0f}",
                f"{short['accuracy']:.1%}",
                f"{long['accuracy']:.1%}",
                f"{short['token_loss']:.3f}",
                f"{long['token_loss']:.3f}",
                f"{long['no_worse_than_shortest']:.0%}",
            )
            if file == "hidden":
                losses.append((short["token_loss"], long["token_loss"]))
    short, long = (sum(column) / len(losses) for column in zip(*losses, strict=True))
    yield "mean, without Wikipedia", "", "", "", f"{short:.3f}", f"{long:.3f}", ""


def sentences(out: Path, package: Path) -> Iterator[Row]:
    """The likeliest words of the sentences of prompts.txt."""
    yield "prompt", "five likeliest"
    for prompt, words in read(out / "scores" / "prompts.json")["prompts"].items():
        yield prompt.replace("<mask>", "`<mask>`"), ", ".join(words)


def entities(out: Path, package: Path) -> Iterator[Row]:
    """Whole entities of the right kind, beside the baseline."""
    yield "", "precision", "recall", "F1"
    for name, scores in read(out / "scores" / "entities.json")["scores"].items():
        yield name, *(f"{scores[score]:.3f}" for score in ("precision", "recall", "f1"))


TABLES: dict[str, Callable[[Path, Path], Iterator[Row]]] = {
    "facts": facts,
    "training": training,
    "hidden": hidden,
    "sentences": sentences,
    "entities": entities,
}


def markdown(rows: Iterable[Row]) -> str:
    """A table; columns of numbers are flush right."""
    head, *body = ([str(cell) for cell in row] for row in rows)
    rules = ["---:" if all(_is_number(cell) for cell in column) else "---" for column in zip(*body, strict=True)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rules, *body))


def _is_number(cell: str) -> bool:
    return not cell or cell[0].isdigit()


def fill(card: str, name: str, table: str) -> str:
    """A card with the table of a name replaced.

    Raises:
        ValueError: it has no place for it.
    """
    place = re.compile(f"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not place.search(card):
        raise ValueError(f"The card has no table {name!r}: write <!-- table: {name} --> and <!-- end --> into it.")
    return place.sub(lambda found: found[1] + table + found[2], card)


def main(out: Path, root: Path) -> None:
    """Fill the card, and copy the plots."""
    path = root / "MODEL_CARD.md"
    card = path.read_text(encoding="utf-8")
    for name, rows in TABLES.items():
        card = fill(card, name, markdown(rows(out, root / "longformer_plus" / "shipped")))
    path.write_text(card, encoding="utf-8")
    plots = root / "docs" / "results" / "shipped"
    plots.mkdir(parents=True, exist_ok=True)
    for name in _PLOTTED:
        shutil.copy(out / name / "losses.svg", plots / f"{name}.svg")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
