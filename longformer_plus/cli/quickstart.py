"""`longformer-plus quickstart`, which `make run` runs: the checkpoint of the package reads a long document."""

from __future__ import annotations

import argparse
import statistics
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

_SAMPLE = "lighthouses.txt"
_LEAST_SCORE = 0.6
_TOKENS = 2048
_REPEATS = 3


def add(commands: Any) -> None:
    """Add the subcommand `quickstart`."""
    parser = commands.add_parser(
        "quickstart",
        help="let the checkpoint of the package read a long document, beside transformers' Longformer",
        description="Fill in words of a document and find who and what is named in it, with the small checkpoint that "
        "comes with the package, and compare it with transformers' Longformer of the same weights; then time a layer "
        "of base size beside transformers'. The names need the extra `peft`.",
    )
    parser.add_argument(
        "document", type=Path, nargs="?", help="a text file in UTF-8, of any length; by default an article of our own"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    if options.document is not None and not options.document.is_file():
        raise ValueError(f"{options.document} is not a file. Name a text file in UTF-8.")
    from ..model.silence import silence

    if options.document is None:
        name, text = _SAMPLE, (files("longformer_plus.shipped") / "samples" / _SAMPLE).read_text("utf-8")
    else:
        name, text = options.document.name, options.document.read_text("utf-8")
    if not text.strip():
        raise ValueError(f"{options.document} is empty. Name a text file with something in it.")
    with silence():
        _fill_masks(name, text)
        try:
            _tag(text)
        except ModuleNotFoundError as error:
            print(f"Not shown:  {error}")
        _compare_logits(text)
        _compare_speed()


def _fill_masks(name: str, text: str) -> None:
    """Predict a hidden word: in a sentence, and in the middle of the document."""
    from transformers import AutoTokenizer, pipeline

    from .. import shipped_checkpoint

    tokenizer = AutoTokenizer.from_pretrained(shipped_checkpoint())
    fill = pipeline("fill-mask", model=str(shipped_checkpoint()), tokenizer=tokenizer)
    config = fill.model.config
    print(
        f"Checkpoint: {shipped_checkpoint()}, {fill.model.num_parameters() / 1e6:.1f} million parameters, "
        f"{config.max_tokens} tokens, a window of {max(config.windows)}"
    )
    num_tokens = len(tokenizer(text)["input_ids"])
    print(f"Document:   {name}, {len(text):,} characters, {num_tokens:,} tokens")
    words = text.split()
    middle = len(words) // 2
    before, after = words[max(middle - 300, 0) : middle], words[middle + 1 : middle + 300]
    sentences = {"": f"He opened the {tokenizer.mask_token} and walked into the room."}
    sentences[f" (it was {words[middle]!r})"] = " ".join([*before, tokenizer.mask_token, *after])
    for truth, sentence in sentences.items():
        place = sentence.index(tokenizer.mask_token)
        shown = sentence[max(place - 35, 0) : place + 40].strip()
        guesses = fill(sentence, top_k=3)
        print(f"Fill-mask:  ... {shown} ... {', '.join(repr(guess['token_str'].strip()) for guess in guesses)}{truth}")


def _tag(text: str) -> None:
    """Print the names of people and places with a high score, the most frequent first."""
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    from .. import shipped_checkpoint
    from ..integrations.long_documents import find_entities, tag_document

    folder = shipped_checkpoint("token-classification")
    model = AutoModelForTokenClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, add_prefix_space=True)
    found = find_entities(text, tag_document(model, tokenizer, text))
    names = [entity for entity in found if entity.score > _LEAST_SCORE and entity.text[0].isupper()]
    print(f"Entities:   {len(found)} found, {len(names)} of them names with a score above {_LEAST_SCORE}")
    for label, kind in (("PER", "people"), ("GPE", "places")):
        counts = Counter(" ".join(entity.text.split()) for entity in names if entity.label == label)
        if counts:
            print(f"            {kind}: {', '.join(name for name, _ in counts.most_common(8))}")


def _compare_logits(text: str) -> None:
    """Compare with transformers' Longformer of the same weights."""
    import torch
    from transformers import AutoTokenizer

    from .. import LongformerPlusForMaskedLM, shipped_checkpoint
    from ..conversion import convert_to_longformer

    ours = LongformerPlusForMaskedLM.from_pretrained(shipped_checkpoint()).eval()
    tokenizer = AutoTokenizer.from_pretrained(shipped_checkpoint())
    theirs = convert_to_longformer(ours)
    inputs = tokenizer(text, truncation=True, global_attention="cls", return_tensors="pt")
    with torch.no_grad():
        difference = (ours(**inputs).logits - theirs(**inputs).logits).abs().max().item()
    print(f"Same as transformers' {type(theirs).__name__}: logits differ by at most {difference:.1e}")


def _compare_speed() -> None:
    """Time a layer of base size beside transformers, and measure its memory where that is possible."""
    from ..benchmark.measuring import FLOOR, Plan, circumstances
    from ..benchmark.workloads import Workload

    print(f"One layer of base size, {_TOKENS:,} tokens, a window of 512, beside transformers' Longformer:")
    for work in ("forward", "training"):
        workload = Workload(_TOKENS, work, num_layers=1)
        with_memory = Path("/proc/self/clear_refs").exists()
        point = Plan([workload], repeats=_REPEATS, with_memory=with_memory).measure(workload)
        if point.failures:
            print(f"{work.capitalize() + ':':12}{'; '.join(f'{name}: {why}' for name, why in point.failures.items())}")
            continue
        theirs, ours, floor = (
            statistics.median(point.seconds[name]) for name in ("transformers", "longformer_plus", FLOOR)
        )
        line = f"{theirs * 1e3:.0f} ms there, {ours * 1e3:.0f} ms here: {_compared(theirs / ours)}"
        if with_memory:
            line += f", in {point.memory['longformer_plus'] / point.memory['transformers']:.2f} of the memory"
        print(
            f"{work.capitalize() + ':':12}{line}; {ours / floor:.1f} times its linear layers alone, the least possible"
        )
    print(f"            float32, medians of {_REPEATS} in turns, {circumstances()}")


def _compared(ratio: float) -> str:
    """What a ratio of their time to ours means, in words."""
    if ratio >= 1.05:
        return f"{ratio:.1f} times as fast"
    return "as fast" if ratio > 0.95 else f"{1 / ratio:.1f} times slower"
