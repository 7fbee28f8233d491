"""The run behind `longformer-plus train`: data, tokenizer and model, `Trainer`, and what is saved.

from longformer_plus.integrations.training import TrainingPlan, train

scores = train(TrainingPlan("text-classification", ["reviews.jsonl"], "my-classifier", model="my-longformer"))
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SchedulerType,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import ProgressCallback, TrainerState
from transformers.utils import logging

from longformer_plus import LongformerPlusConfig, LongformerPlusPreTrainedModel
from longformer_plus.global_attention import Policy

from . import training_tasks as tasks
from .metrics import compute_metrics, shrink_logits
from .preparation import Prepared
from .pretraining import PackedDocuments, attend_to_neighbours
from .training_report import Progress, plot_losses, scores_line

logger = logging.get_logger(__name__)

_PLAN_FILE = "training.json"
_SCORES_FILE = "scores.json"
PLOT_FILE = "losses.svg"


@dataclass
class TrainingPlan:
    """What is to be trained, on what, and how.

    Attributes:
        task: a key of `training_tasks.TASKS`; "masked-lm" is "fill-mask", "causal-lm" is "text-generation".
        train: sources of data; see `records.read_records`.
        output: the folder to write into: model, tokenizer, checkpoints, scores and a plot of the losses.
        evaluation: sources that are evaluated on.
        model: a checkpoint to start from, of LongformerPlus or Longformer, or the folder of adapters on one; None for a
            new one with random weights.
        config: the fields of a new model's configuration, or those that change in the checkpoint's.
        tokenizer: the folder or the hub's name of the tokenizer; by default the checkpoint's.
        weights: for fill-mask and text-generation, how many of the tokens come from each source, in any unit; by
            default by size.
        columns: what fields are called in the sources, by the names in `records`.
        join_by: for question answering, the field by which paragraphs are joined to whole articles, such as "title".
        max_length: tokens of a feature; by default as many as the model has positions for.
        stride: tokens that neighbouring stretches of a document share.
        unanswered_share: for question answering, the share of stretches without the answer that is trained on.
        masked_share: for fill-mask, the share of tokens that is hidden.
        global_attention: a policy, in place of the checkpoint's.
        lora: the rank of new LoRA adapters; None trains all weights, or the adapters that `model` is the folder of.
        lora_targets: the layers that they adapt, by PEFT's names, or "all-linear"; by default PEFT's for this model.
        epochs: how often all data are gone through.
        max_steps: how many optimizer steps are made, in place of `epochs`.
        batch_size: features of a device's batch.
        accumulation: batches of an optimizer step.
        learning_rate: its highest value.
        schedule: how it falls, by transformers' names.
        warmup: the share of the steps in which it rises.
        weight_decay: of AdamW.
        precision: "float32", "bfloat16", or "auto": bfloat16 where the device is faster with it.
        gradient_checkpointing: compute activations again in the backward pass, to save memory.
        group_by_length: put documents of like lengths into a batch.
        attn_implementation: the backend.
        seed: of everything random.
        workers: processes that prepare batches.
        log_every, eval_every, save_every: optimizer steps between reports, evaluations (None: only at the end), and
            checkpoints.
        keep: checkpoints that are kept.
        max_train_rows, max_eval_rows: use no more rows, drawn at random; for fill-mask and text-generation evaluation
            takes so many rows full of tokens, and training as many as its steps need.
        resume: go on from the last whole checkpoint in `output`, if there is one.
    """

    task: str
    train: Sequence[str]
    output: str | Path
    evaluation: Sequence[str] = ()
    model: str | None = None
    config: Mapping[str, Any] | None = None
    tokenizer: str | None = None
    weights: Sequence[float] | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    join_by: str | None = None
    max_length: int | None = None
    stride: int = 128
    unanswered_share: float = 1.0
    masked_share: float = 0.15
    global_attention: Policy | None = None
    lora: int | None = None
    lora_targets: Sequence[str] | None = None
    epochs: float = 3.0
    max_steps: int | None = None
    batch_size: int = 4
    accumulation: int = 1
    learning_rate: float = 5e-5
    schedule: str = "linear"
    warmup: float = 0.06
    weight_decay: float = 0.01
    precision: str = "auto"
    gradient_checkpointing: bool = False
    group_by_length: bool = False
    attn_implementation: str = "sdpa"
    seed: int = 0
    workers: int = 0
    log_every: int = 10
    eval_every: int | None = None
    save_every: int = 500
    keep: int = 2
    max_train_rows: int | None = None
    max_eval_rows: int | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        self.task = tasks.ALIASES.get(self.task, self.task)

    def check(self) -> None:
        """Raise a ValueError for the first value that is not allowed."""
        if self.task not in tasks.TASKS:
            allowed = ", ".join(map(repr, tasks.TASKS))
            raise ValueError(f"task={self.task!r} is not allowed: it must be one of {allowed}.")
        if self.model is None and self.config is None:
            raise ValueError("Give a checkpoint to start from (--model) or a new one's configuration (--config).")
        if self.model is None and self.tokenizer is None:
            raise ValueError("A new model needs a tokenizer (--tokenizer); `longformer-plus tokenizer` trains one.")
        if self.model is None and self.lora is not None:
            raise ValueError("LoRA adapts trained weights: give a checkpoint (--model) to start from.")
        if self.goes_on_from_adapters and self.lora is not None:
            raise ValueError(f"{self.model} holds adapters, which have their rank: leave --lora out to train them on.")
        if self.lora_targets is not None and self.lora is None:
            raise ValueError("lora_targets are for LoRA: give its rank too (--lora).")
        if self.join_by is not None and self.task != "question-answering":
            raise ValueError(f"join_by is for question answering, not for {self.task}. Leave it out.")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"precision={self.precision!r} is not allowed: it must be auto, float32 or bfloat16.")
        sizes = ("batch_size", "accumulation", "max_steps", "max_length", "lora", "keep")
        for name in (*sizes, "log_every", "eval_every", "save_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is not allowed: it must be at least 1.")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup={self.warmup} is not allowed: it is a share of the steps, from 0 to less than 1.")
        if not 0 <= self.unanswered_share <= 1:
            raise ValueError(f"unanswered_share={self.unanswered_share} is not allowed: it must be from 0 to 1.")
        # Known before the data are read, which may take long.
        SchedulerType(self.schedule)
        self._check_packing()

    def _check_packing(self) -> None:
        """Raise a ValueError for what has no meaning where rows are drawn from text and packed, or only there."""
        if not tasks.TASKS[self.task].is_packed:
            if self.weights is not None:
                raise ValueError(f"{self.task} takes every row of its sources: leave their weights out.")
        elif self.max_train_rows is not None:
            raise ValueError(f"{self.task} draws from all of the text: use --max-steps in place of --max-train-rows.")
        elif self.group_by_length:
            raise ValueError(f"The rows of {self.task} are all as long as can be: leave --group-by-length out.")

    @property
    def goes_on_from_adapters(self) -> bool:
        """Whether what it starts from is not a whole checkpoint but adapters, saved by an earlier run."""
        return self.model is not None and (Path(self.model) / "adapter_config.json").is_file()

    @property
    def trains_adapters(self) -> bool:
        """Whether adapters alone are trained and saved."""
        return self.lora is not None or self.goes_on_from_adapters

    @property
    def rows_per_step(self) -> int:
        """Features of an optimizer step, on all devices."""
        return self.batch_size * self.accumulation * int(os.environ.get("WORLD_SIZE", 1))


def train(plan: TrainingPlan) -> dict[str, float]:
    """Run a plan.

    Returns:
        The scores of the last evaluation, by name, as `Trainer` gives them ("eval_loss", ...).

    Raises:
        FileExistsError: the output folder holds something and `resume` is False.
        ModuleNotFoundError: a package of the extra `train` is missing.
        ValueError: the plan, or a row of the data, is wrong. All rows are looked at before training starts.
    """
    plan.check()
    output = Path(plan.output)
    checkpoint = _check_folder(plan, output)
    set_seed(plan.seed)
    tokenizer = _load_tokenizer(plan)
    config = _load_config(plan, tokenizer)
    max_length = min(plan.max_length or config.max_tokens, config.max_tokens)
    data = tasks.prepare(plan, tokenizer, max_length)
    for name, prepared in (("train", data.train), ("evaluation", data.evaluation)):
        if prepared is not None:
            _say(f"{name + ':':<12}{prepared.summary}")
    model = _load_model(plan, config, data.names, tokenizer)
    # Nobody looks at the logits of training, and those of the vocabulary cost a small model a third of its time.
    model.config.sparse_prediction = True
    trainer = _make_trainer(plan, model, tokenizer, data)
    # Only now: a run that fails over its data leaves nothing behind.
    if trainer.is_world_process_zero():
        _record(plan, output)
    if checkpoint is None or not _restore_if_finished(trainer, Path(checkpoint)):
        trainer.train(resume_from_checkpoint=checkpoint)
    model.config.sparse_prediction = False
    return _finish(trainer, plan, output)


def _finish(trainer: Trainer, plan: TrainingPlan, output: Path) -> dict[str, float]:
    """Save model and tokenizer, evaluate, draw the losses."""
    trainer.save_model(str(output))
    if plan.trains_adapters and trainer.is_world_process_zero():
        from .adapters import save_model_config

        save_model_config(trainer.accelerator.unwrap_model(trainer.model), output)
    scores: dict[str, float] = {}
    if trainer.eval_dataset is not None:
        last = trainer.state.log_history[-2] if len(trainer.state.log_history) > 1 else {}
        was_evaluated = "eval_loss" in last and last["step"] == trainer.state.global_step
        scores = last if was_evaluated else trainer.evaluate()
        _say(f"evaluation: {scores_line(scores)}")
    if trainer.is_world_process_zero():
        trainer.state.save_to_json(str(output / "trainer_state.json"))
        (output / _SCORES_FILE).write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
        plot_losses(trainer.state.log_history, output / PLOT_FILE)
    _say(f"Wrote {output}: the model, its tokenizer, {_SCORES_FILE} and {PLOT_FILE}. {tasks.how_to_load(plan)}")
    return scores


def _check_folder(plan: TrainingPlan, output: Path) -> str | None:
    """See that nothing is overwritten; the checkpoint to resume from, if there is one."""
    recorded, told = output / _PLAN_FILE, _told(plan)
    # The other processes of a run find what the first one has written.
    if _is_first_process() and output.exists() and any(output.iterdir()):
        if not plan.resume:
            raise FileExistsError(f"{output} is not empty. Name another folder, or resume the run in it (--resume).")
        if recorded.is_file():
            before = json.loads(recorded.read_text(encoding="utf-8"))
            changed = [name for name in told if told[name] != before.get(name)]
            if changed:
                raise ValueError(
                    f"{output} holds a run with another {' and '.join(changed)}: it was {before.get(changed[0])!r}, "
                    f"not {told[changed[0]]!r}. Resume with the same options, or name another folder."
                )
    checkpoint = last_checkpoint(output) if plan.resume else None
    if checkpoint is not None:
        _say(f"Resuming from {checkpoint}.")
    return None if checkpoint is None else str(checkpoint)


def _told(plan: TrainingPlan) -> dict[str, Any]:
    """A plan as it is recorded, to be compared when a run is resumed."""
    return json.loads(json.dumps({**asdict(plan), "output": str(plan.output), "resume": None}))


def _record(plan: TrainingPlan, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    (output / _PLAN_FILE).write_text(json.dumps(_told(plan), indent=2) + "\n", encoding="utf-8")


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of `Trainer` in a folder that was written to its end; None if there is none."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
    for path in sorted(found, key=lambda each: int(each.name.removeprefix("checkpoint-")), reverse=True):
        try:
            # The last file that Trainer writes.
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return path
    return None


def _restore_if_finished(trainer: Trainer, checkpoint: Path) -> bool:
    """Whether a checkpoint is of a run's last step, which is then loaded: `Trainer` would make one step more."""
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    if state.global_step < state.max_steps:
        return False
    trainer._load_from_checkpoint(str(checkpoint))
    trainer.state = state
    # Which process this is, the file does not say.
    state.is_world_process_zero = trainer.is_world_process_zero()
    state.is_local_process_zero = trainer.is_local_process_zero()
    return True


def _load_tokenizer(plan: TrainingPlan) -> PreTrainedTokenizerBase:
    # Pre-split words are tokenized as if after a space.
    options: dict[str, Any] = {"add_prefix_space": True} if plan.task == "token-classification" else {}
    if plan.task == "text-generation":
        # It is saved with the model, for prompts that are to be continued.
        options = {"close_documents": False}
    name = plan.tokenizer or plan.model
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
        if plan.task != "text-generation" and not getattr(tokenizer, "close_documents", True):
            tokenizer = AutoTokenizer.from_pretrained(name, close_documents=True, **options)
        return tokenizer
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} holds no tokenizer that can be read: {error}") from error


def _load_config(plan: TrainingPlan, tokenizer: PreTrainedTokenizerBase) -> LongformerPlusConfig:
    changes: dict[str, Any] = dict(plan.config or {})
    if plan.global_attention is not None:
        changes["global_attention"] = plan.global_attention
    known = LongformerPlusConfig()
    if unknown := [name for name in changes if not hasattr(known, name)]:
        raise ValueError(
            f"config={unknown} is not allowed: a configuration has no such fields. See LongformerPlusConfig."
        )
    if plan.model is not None and plan.goes_on_from_adapters:
        from .adapters import adapted_config

        return LongformerPlusConfig.from_dict({**adapted_config(plan.model).to_dict(), **changes})
    if plan.model is not None:
        return LongformerPlusConfig.from_pretrained(plan.model, **changes)
    special = ("bos_token_id", "eos_token_id", "sep_token_id", "pad_token_id")
    fields = {"vocab_size": len(tokenizer), **{name: getattr(tokenizer, name) for name in special}}
    return LongformerPlusConfig(**{**fields, **changes})


def _load_model(
    plan: TrainingPlan, config: LongformerPlusConfig, names: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel:
    """The model of the task, with its classes, and with adapters where the plan says so."""
    kind = tasks.TASKS[plan.task].model
    if plan.goes_on_from_adapters:
        _check_adapters(plan, config, names)
    if names:
        config.id2label = dict(enumerate(names))
        config.label2id = {name: index for index, name in enumerate(names)}
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} entries, the model {config.vocab_size}: they do not belong together."
        )
    _warn_without_global_tokens(plan.task, config)
    if plan.trains_adapters:
        return _with_adapters(plan, kind, config)
    if plan.model is None:
        model = kind._from_config(config, attn_implementation=plan.attn_implementation)
    else:
        model = _load(kind, plan.model, plan, config)
    if plan.task == "fill-mask" and (plan.model is None or _was_causal(plan.model, config)):
        attend_to_neighbours(model)
    _say(f"model:      {type(model).__name__}, {model.num_parameters():,} parameters")
    return model


def _load(
    kind: type[LongformerPlusPreTrainedModel], checkpoint: str, plan: TrainingPlan, config: LongformerPlusConfig
) -> LongformerPlusPreTrainedModel:
    return kind.from_pretrained(
        checkpoint, config=config, attn_implementation=plan.attn_implementation, dtype=torch.float32
    )


def _check_adapters(plan: TrainingPlan, config: LongformerPlusConfig, names: Sequence[str]) -> None:
    """Raise a ValueError for adapters of another task, or of other classes."""
    from .adapters import adapter_of

    kind, _ = adapter_of(str(plan.model))
    if kind is not tasks.TASKS[plan.task].model:
        raise ValueError(f"{plan.model} holds adapters for {kind.__name__}, not for {plan.task}.")
    learned = list((config.id2label or {}).values())
    if names and learned != list(names):
        raise ValueError(f"{plan.model} holds adapters for the classes {learned}, the data have {list(names)}.")


def _with_adapters(
    plan: TrainingPlan, kind: type[LongformerPlusPreTrainedModel], config: LongformerPlusConfig
) -> PreTrainedModel:
    """The checkpoint with new adapters, or with those that the plan goes on from."""
    from peft import PeftModel, get_peft_model

    from .adapters import adapter_of, lora_config

    checkpoint = str(plan.model)
    if plan.goes_on_from_adapters:
        _, base = adapter_of(checkpoint)
        adapted = PeftModel.from_pretrained(_load(kind, base, plan, config), checkpoint, is_trainable=True)
    else:
        targets = plan.lora_targets if plan.lora_targets is None else list(plan.lora_targets)
        options = {"target_modules": "all-linear" if targets == ["all-linear"] else targets}
        model = _load(kind, checkpoint, plan, config)
        adapted = get_peft_model(model, lora_config(plan.task, r=plan.lora, **options))
    trained, total = adapted.get_nb_trainable_parameters()
    _say(f"model:      {kind.__name__}, {trained:,} of {total:,} parameters trained ({trained / total:.2%})")
    return adapted  # type: ignore[return-value]


def _was_causal(checkpoint: str, config: LongformerPlusConfig) -> bool:
    """Whether the tokens of a checkpoint could not look ahead, as those of the new model can."""
    return not config.is_causal and LongformerPlusConfig.from_pretrained(checkpoint).is_causal


def _warn_without_global_tokens(task: str, config: LongformerPlusConfig) -> None:
    wanted = tasks.TASKS[task].model.auto_global_attention
    if config.global_attention == "none" and wanted != "none":
        logger.warning(
            f'No token will attend globally: global_attention is "none", and {task} usually needs {wanted!r}. Without, '
            "what is far apart in a long document cannot be brought together."
        )


class LongformerTrainer(Trainer):
    """`Trainer` that counts answers too, so that losses are exact where the batches of a step differ in size.

    Its own counts `labels` alone, and takes the mean of the batches' means where there are none.
    """

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor | int | None:
        if batch_samples and "start_positions" in batch_samples[0]:
            batch_samples = [{"labels": batch["start_positions"]} for batch in batch_samples]
        return super()._get_num_items_in_batch(batch_samples, device)


def _make_trainer(
    plan: TrainingPlan, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: tasks.TaskData
) -> Trainer:
    evaluation = data.evaluation
    trainer = LongformerTrainer(
        model,
        _training_arguments(plan, data.train, evaluation is not None),
        data_collator=tasks.collator(plan, tokenizer, model.config),
        train_dataset=data.train,
        eval_dataset=evaluation,
        processing_class=tokenizer,
        compute_metrics=None if evaluation is None else compute_metrics(plan.task, evaluation, data.names),
        preprocess_logits_for_metrics=shrink_logits(plan.task),
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Progress)
    return trainer


def _training_arguments(plan: TrainingPlan, data: Prepared | PackedDocuments, evaluates: bool) -> TrainingArguments:
    """What `Trainer` is told."""
    is_packed = isinstance(data, PackedDocuments)
    order = "group_by_length" if plan.group_by_length else "random"
    return TrainingArguments(
        output_dir=str(plan.output),
        max_steps=plan.max_steps or -1,
        # The rows of packed documents are as many as the plan says: all of them are gone through once.
        num_train_epochs=1 if is_packed else plan.epochs,
        train_sampling_strategy="sequential" if is_packed else order,
        per_device_train_batch_size=plan.batch_size,
        per_device_eval_batch_size=plan.batch_size,
        gradient_accumulation_steps=plan.accumulation,
        learning_rate=plan.learning_rate,
        lr_scheduler_type=plan.schedule,
        warmup_steps=plan.warmup,
        weight_decay=plan.weight_decay,
        bf16=_is_bfloat16(plan.precision),
        use_cpu=not torch.accelerator.is_available(),
        **_checkpointing(plan.gradient_checkpointing),
        seed=plan.seed,
        data_seed=plan.seed,
        dataloader_num_workers=plan.workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=plan.log_every,
        logging_first_step=True,
        eval_strategy="steps" if evaluates and plan.eval_every else "no",
        eval_steps=plan.eval_every,
        save_strategy="steps",
        save_steps=plan.save_every,
        save_total_limit=plan.keep,
        label_names=list(tasks.TASKS[plan.task].label_names),
        # The collators take what they know.
        remove_unused_columns=False,
        include_num_input_tokens_seen="non_padding",
        ddp_find_unused_parameters=False,
        report_to=[],
    )


def _checkpointing(wanted: bool) -> dict[str, Any]:
    """The arguments that switch gradient checkpointing on, by the names of the installed transformers."""
    if not wanted:
        return {}
    names = {each.name for each in fields(TrainingArguments)}
    name = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    return {name: True, f"{name}_kwargs": {"use_reentrant": False}}


def _is_bfloat16(precision: str) -> bool:
    if precision != "auto":
        return precision == "bfloat16"
    if torch.accelerator.is_available():
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    # Without these instructions bfloat16 is emulated, and slower.
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _is_first_process() -> bool:
    return int(os.environ.get("RANK", 0)) == 0


def _say(text: str) -> None:
    if _is_first_process():
        print(text, flush=True)
