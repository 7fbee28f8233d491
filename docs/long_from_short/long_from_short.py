"""From nothing to a long model: a RoBERTa made from scratch, made long, trained on, and compared on long documents.

Four losses are compared, all of the same masked tokens of the same documents of 4082 tokens:

    short               the RoBERTa, on the documents cut into pieces of 512
    short, trained on   the same after as many further tokens in pieces of 512 as the long one gets
    long, as converted  the Longformer that `convert_to_long` makes of it, on whole documents
    long, trained on    the same after further training on whole documents

    python docs/long_from_short/long_from_short.py shared/data/pretraining run

writes the checkpoints run/short, run/short-trained-on, run/long and run/long-trained-on, the losses on the way as
run/losses.json and their curve as run/losses.svg. It needs the extras `train` and `bench`, and uses a GPU where one is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from datasets import load_dataset
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    DataCollatorForLanguageModeling,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaTokenizer,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from longformer_plus.benchmark import circumstances
from longformer_plus.conversion import convert_to_long

SHORT = 512
LONG = 8 * (SHORT - 2) + 2  # eight whole pieces for the short model, and what the long one has positions for
SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def main() -> None:
    """Make, convert, train and compare."""
    options = parse()
    set_seed(options.seed)
    options.output.mkdir(parents=True)
    training, validation = (texts(options.texts, split) for split in ("train", "validation"))
    tokenizer = make_tokenizer(training, options.vocabulary, options.output / "tokenizer")
    short_rows, long_rows = (rows(training, tokenizer, length) for length in (SHORT, LONG))
    test = Masked(rows(validation, tokenizer, LONG), tokenizer)
    print(f"{len(short_rows) * SHORT / 1e6:.1f}M tokens of text, {len(test.ids)} documents of {LONG} to compare on")
    run = Run(options, tokenizer, test)

    short = RobertaForMaskedLM(short_config(options, len(tokenizer)))
    run.train(short, short_rows, options.short_tokens, SHORT, "short")
    long = convert_to_long(options.output / "short", options.window, 4096, options.output / "long")
    run.train(long, long_rows, options.further_tokens, LONG, "long, trained on")
    run.train(short, short_rows, options.further_tokens, SHORT, "short, trained on")
    run.record()


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "texts", type=Path, help="a folder of *.train.jsonl.xz and *.validation.jsonl.xz with a text each"
    )
    parser.add_argument("output", type=Path, help="a new folder")
    add = parser.add_argument
    add("--short-tokens", type=float, default=4e6, help="tokens that the short model is trained on")
    add("--further-tokens", type=float, default=1e6, help="tokens that both are trained on after that")
    add("--batch-tokens", type=int, default=16384, help="tokens of a step")
    add("--vocabulary", type=int, default=4096)
    add("--hidden-size", type=int, default=128)
    add("--layers", type=int, default=4)
    add("--window", type=int, default=512, help="attention window of the long model, total width")
    add("--learning-rate", type=float, default=1e-3, help="of the short model; further training has a quarter of it")
    add("--evaluations", type=int, default=4, help="how often the loss is measured in each training")
    add("--seed", type=int, default=0)
    return parser.parse_args()


def texts(folder: Path, split: str) -> list[str]:
    """The documents of a split."""
    files = sorted(str(path) for path in folder.glob(f"*.{split}.jsonl.xz"))
    return [row["text"] for file in files for row in load_dataset("json", data_files=file, split="train")]


def make_tokenizer(documents: list[str], size: int, folder: Path) -> PreTrainedTokenizerBase:
    """A byte-level BPE of the documents."""
    trainer = ByteLevelBPETokenizer()
    trainer.train_from_iterator(documents, vocab_size=size, special_tokens=SPECIAL_TOKENS, show_progress=False)
    folder.mkdir()
    trainer.save_model(str(folder))
    return RobertaTokenizer.from_pretrained(folder, model_max_length=SHORT)


def rows(documents: list[str], tokenizer: PreTrainedTokenizerBase, length: int) -> Tensor:
    """(rows, length) token ids: each document cut into rows with <s> and </s>, what is left over left out."""
    found = []
    for document in documents:
        ids = tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]
        body = length - 2
        for start in range(0, len(ids) - body + 1, body):
            found.append([tokenizer.bos_token_id, *ids[start : start + body], tokenizer.eos_token_id])
    return torch.tensor(found)


def short_config(options: argparse.Namespace, vocabulary: int) -> RobertaConfig:
    """A small RoBERTa."""
    return RobertaConfig(
        vocab_size=vocabulary,
        hidden_size=options.hidden_size,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden_size // 64,
        intermediate_size=4 * options.hidden_size,
        max_position_embeddings=SHORT + 2,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )


class Masked:
    """Documents of `LONG` tokens, masked once, so that every model predicts the same tokens."""

    def __init__(self, ids: Tensor, tokenizer: PreTrainedTokenizerBase, most: int = 24) -> None:
        ids = ids[torch.linspace(0, len(ids) - 1, min(most, len(ids))).long()]  # from all of the sources
        generator = torch.Generator().manual_seed(0)
        is_masked = (torch.rand(ids.shape, generator=generator) < 0.15) & (ids > len(SPECIAL_TOKENS) - 1)
        self.ids = ids.masked_fill(is_masked, tokenizer.mask_token_id)
        self.labels = ids.masked_fill(~is_masked, -100)
        self.ends = tokenizer.bos_token_id, tokenizer.eos_token_id

    def pieces(self, length: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(documents, length) ids and labels, piece by piece."""
        bodies = (part[:, 1:-1].split(length - 2, 1) for part in (self.ids, self.labels))
        for ids, labels in zip(*bodies, strict=True):
            first, last = (torch.full_like(ids[:, :1], end) for end in self.ends)
            yield torch.cat([first, ids, last], 1), F.pad(labels, (1, 1), value=-100)

    @torch.no_grad()
    def loss(self, model: PreTrainedModel, length: int) -> float:
        """Mean cross-entropy of the masked tokens, in nats."""
        was_training = model.training
        model.eval()
        total, count = 0.0, 0
        for piece in self.pieces(length):
            for ids, labels in zip(*(part.split(4) for part in piece), strict=True):
                logits = model(input_ids=ids.to(model.device)).logits.float().cpu()
                total += float(F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum"))
                count += int((labels != -100).sum())
        model.train(was_training)
        return total / count


class Run:
    """The trainings, and the losses measured on the way: (tokens trained on, loss) by name."""

    def __init__(self, options: argparse.Namespace, tokenizer: PreTrainedTokenizerBase, test: Masked) -> None:
        self.options, self.tokenizer, self.test = options, tokenizer, test
        self.losses: dict[str, list[tuple[int, float]]] = {}
        self.start = 0

    def train(self, model: PreTrainedModel, examples: Tensor, num_tokens: float, length: int, name: str) -> None:
        """Train on rows of one length, measure the loss before, on the way and after, and save the model."""
        steps = max(1, round(num_tokens / self.options.batch_tokens))
        further = bool(self.losses)
        self.start = self.losses["short"][-1][0] if further else 0
        self.measure(model, length, name, 0)
        folder = self.options.output / name.replace(", ", "-").replace(" ", "-")
        on_gpu = torch.cuda.is_available()
        batch = self.options.batch_tokens // length
        part = min(batch, 32 if on_gpu else 8)
        arguments = TrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            per_device_train_batch_size=part,
            gradient_accumulation_steps=max(1, batch // part),
            learning_rate=self.options.learning_rate / (4 if further else 1),
            lr_scheduler_type="linear",
            warmup_steps=max(1, steps // 20),
            weight_decay=0.01,
            bf16=on_gpu,
            logging_steps=max(1, steps // 50),
            save_strategy="no",
            report_to=[],
            seed=self.options.seed,
        )
        collator = DataCollatorForLanguageModeling(self.tokenizer, mlm_probability=0.15)
        dataset = [{"input_ids": row} for row in examples]
        every = max(1, steps // self.options.evaluations)
        Trainer(model, arguments, collator, dataset, callbacks=[_Measure(self, length, name, every)]).train()
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.record()

    def measure(self, model: PreTrainedModel, length: int, name: str, step: int) -> None:
        """Note the loss after so many steps of a training."""
        loss = self.test.loss(model, length)
        self.losses.setdefault(name, []).append((self.start + step * self.options.batch_tokens, loss))
        print(f"{name}: {step} steps, loss {loss:.4f}", flush=True)

    def record(self) -> None:
        """Write the losses, and draw them."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        options = {name: str(value) for name, value in vars(self.options).items() if name not in ("texts", "output")}
        record = {"losses": self.losses, "options": options, "circumstances": circumstances()}
        (self.options.output / "losses.json").write_text(json.dumps(record, indent=1) + "\n")
        figure, axes = pyplot.subplots(figsize=(7, 4))
        for name, points in self.losses.items():
            axes.plot([tokens / 1e6 for tokens, _ in points], [loss for _, loss in points], marker=".", label=name)
        axes.set(xlabel="million tokens trained on", ylabel=f"masked-LM loss on documents of {LONG} tokens")
        axes.legend()
        figure.tight_layout()
        figure.savefig(self.options.output / "losses.svg")
        pyplot.close(figure)


class _Measure(TrainerCallback):
    """Measures the loss every so many steps, and at the end."""

    def __init__(self, run: Run, length: int, name: str, every: int) -> None:
        self.run, self.length, self.name, self.every = run, length, name, every

    def on_step_end(self, args, state, control, model=None, **kwargs) -> None:
        """Measure."""
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self.run.measure(model, self.length, self.name, state.global_step)


if __name__ == "__main__":
    main()
