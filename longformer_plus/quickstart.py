"""What `make run` shows: a Longformer checkpoint and a long document, through the Auto classes, beside transformers.

Until a trained checkpoint ships with the package it makes a small one with fixed random weights.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    LongformerConfig,
    LongformerForMaskedLM,
    PreTrainedModel,
    TokenizersBackend,
    pipeline,
    set_seed,
)
from transformers.utils import logging

from .benchmark import circumstances, time_in_turns
from .registration import register_for_longformer, unregister_for_longformer
from .tokenization import LongformerPlusTokenizer

WINDOW = 512
SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def build_checkpoint(folder: Path, text: str) -> None:
    """Write a checkpoint of transformers' own Longformer into `folder`: vocabulary from `text`, random weights."""
    trainer = ByteLevelBPETokenizer()
    trainer.train_from_iterator([text], vocab_size=1200, special_tokens=list(SPECIAL_TOKENS), show_progress=False)
    trainer.save_model(str(folder))
    tokenizer = LongformerPlusTokenizer.from_pretrained(folder, model_max_length=4096)
    tokenizer.save_pretrained(folder)
    set_seed(0)
    config = LongformerConfig(
        vocab_size=len(tokenizer),
        hidden_size=512,
        num_hidden_layers=6,
        num_attention_heads=8,
        intermediate_size=2048,
        attention_window=WINDOW,
        max_position_embeddings=4098,
        type_vocab_size=1,
    )
    LongformerForMaskedLM(config).save_pretrained(folder)


def run(document: Path) -> None:
    """Print what the checkpoint makes of a document: hidden states, a filled mask, and the time beside transformers'.

    Args:
        document: a UTF-8 text file.
    """
    text = document.read_text(encoding="utf-8")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        _run(document, text)
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()


def _run(document: Path, text: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_checkpoint(folder, text)
        print(
            "Checkpoint: a small Longformer with random weights, made here. Its predictions mean nothing; that both "
            "implementations make the same ones, and how fast, does."
        )
        theirs = LongformerForMaskedLM.from_pretrained(folder).eval()
        register_for_longformer()
        try:
            ours = AutoModelForMaskedLM.from_pretrained(folder).eval()
        finally:
            unregister_for_longformer()
        tokenizer: TokenizersBackend = AutoTokenizer.from_pretrained(folder)  # type: ignore[assignment]
        _show(document, text, ours, theirs, tokenizer)


@torch.no_grad()
def _show(
    document: Path,
    text: str,
    ours: PreTrainedModel,
    theirs: PreTrainedModel,
    tokenizer: TokenizersBackend,
) -> None:
    inputs = tokenizer(text, truncation=True, global_attention="cls", return_tensors="pt")
    num_tokens = inputs["input_ids"].shape[1]
    print(f"Document:   {document.name}, {len(text):,} characters, {num_tokens:,} tokens, the first one global")

    states = ours(**inputs, output_hidden_states=True).hidden_states
    print(f"Model:      {type(ours).__name__}, {len(states)} hidden states of {tuple(states[-1].shape)}")
    difference = (ours(**inputs).logits - theirs(**inputs).logits).abs().max().item()
    print(f"Same as transformers' {type(theirs).__name__}: logits differ by at most {difference:.1e}")

    words = text.split()
    middle = len(words) // 2
    masked = " ".join([*words[middle - 20 : middle], tokenizer.mask_token, *words[middle + 1 : middle + 20]])
    guesses = pipeline("fill-mask", model=ours, tokenizer=tokenizer)(masked, top_k=3)
    print(f"Fill-mask:  {words[middle]!r} hidden; guesses {', '.join(repr(guess['token_str']) for guess in guesses)}")

    seconds = time_in_turns({"theirs": lambda: theirs(**inputs), "ours": lambda: ours(**inputs)})
    print(
        f"Forward:    transformers {seconds['theirs'] * 1e3:.0f} ms, longformer_plus {seconds['ours'] * 1e3:.0f} ms: "
        f"{seconds['theirs'] / seconds['ours']:.1f} times faster"
    )
    print(
        f"            batch 1, {num_tokens} tokens, window {WINDOW}, float32, medians of 5 in turns, {circumstances()}"
    )
