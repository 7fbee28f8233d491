"""Training from data to a saved model: resumed, refused, and loaded again."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, Trainer, TrainingArguments, pipeline

from longformer_plus import LongformerPlusConfig, LongformerPlusForMaskedLM, LongformerPlusTokenizer, cli

pytest.importorskip("datasets")
pytest.importorskip("evaluate")
from longformer_plus.integrations.tasks import TASKS
from longformer_plus.integrations.training import TrainingPlan, last_checkpoint, train
from longformer_plus.integrations.training import run as training
from longformer_plus.integrations.training import trainer as trainers
from longformer_plus.integrations.training.data import collator, prepare
from longformer_plus.model import pretrained

from ...cases import spread
from ...fine_tuning import model_fields, rows, write_rows
from .conftest import losses, plan_in, train_in


@pytest.mark.parametrize("task", TASKS)
def test_every_task_trains_saves_and_loads(task: str, make_plan: Any, capsys: pytest.CaptureFixture) -> None:
    plan = make_plan(task, eval_every=2)
    scores = train(plan)
    assert {f"eval_{name}" for name in TASKS[task].scores} | {"eval_loss"} <= scores.keys()
    folder = Path(plan.output)
    assert json.loads((folder / "scores.json").read_text()) == scores
    assert "</svg>" in (folder / "losses.svg").read_text()
    printed = capsys.readouterr().out
    loader = printed.rsplit("Load it: import longformer_plus; ", 1)[1].strip()
    model = eval(loader, vars(transformers))
    assert isinstance(model, TASKS[task].model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert isinstance(tokenizer, LongformerPlusTokenizer)
    assert "train:" in printed
    if task == "token-classification":
        assert model.config.id2label == {0: "B-LOC", 1: "O"}


@pytest.fixture(scope="session")
def plain_losses(tokenizer_folder: str, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Those of two steps of classification as in `make_plan`."""
    plan = plan_in(tmp_path_factory.mktemp("plain"), tokenizer_folder, "text-classification", max_steps=2)
    return losses(train_in(plan))


@pytest.mark.parametrize(
    "changes",
    [
        {"gradient_checkpointing": True},
        {"group_by_length": True, "batch_size": 3},
        {"workers": 1},
        {"precision": "bfloat16"},
        {"attn_implementation": "eager"},
        {"accumulation": 3, "max_steps": None, "epochs": 1, "max_length": None},
    ],
)
def test_ways_of_training(changes: dict[str, Any], make_plan: Any, plain_losses: list[float]) -> None:
    changed = losses(train_in(make_plan("text-classification", **{"max_steps": 2, **changes})))
    assert len(changed) == 2
    assert all(map(math.isfinite, changed))
    if {"gradient_checkpointing", "workers", "attn_implementation"} & changes.keys():
        assert changed == pytest.approx(plain_losses, abs=1e-5)
    if "precision" in changes:
        assert changed == pytest.approx(plain_losses, abs=0.05)
        assert changed != plain_losses


@pytest.mark.parametrize(("asked", "found"), [(None, "eager"), ("sdpa", "sdpa")])
def test_the_backend_is_the_models_default_or_the_one_asked_for(
    asked: str | None, found: str, make_plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backends = []

    class Looks(trainers.Progress):
        def on_train_begin(self, *args: Any, model: Any, **kwargs: Any) -> None:
            super().on_train_begin(*args, model=model, **kwargs)
            backends.append(model.config._attn_implementation)

    monkeypatch.setattr(trainers, "Progress", Looks)
    # As on a machine where another backend is the fastest.
    monkeypatch.setattr(pretrained, "default_backend", lambda: "eager")
    train(make_plan("text-classification", max_steps=1, attn_implementation=asked))
    assert backends == [found]


# One task that packs its documents, one with a label for each of them, and one with a label for each word.
ACCUMULATED = ("fill-mask", "text-classification", "token-classification")


@pytest.mark.parametrize(
    "task", [task if task in ACCUMULATED else pytest.param(task, marks=pytest.mark.slow) for task in TASKS]
)
def test_accumulated_gradient_is_that_of_the_large_batch(task: str, make_plan: Any, tokenizer_folder: str) -> None:
    """Through data, collator and Trainer, of documents of different lengths, in batches of 5, 5 and 2."""
    plan = make_plan(task, max_steps=1)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    data = prepare(plan, tokenizer, 100)
    if TASKS[task].is_packed:
        data.train.num_rows = 12
    config = LongformerPlusConfig(**{**model_fields(), "vocab_size": len(tokenizer), **data.config})
    features = [{**data.train[index], "masking_seed": index} for index in range(12)]

    def gradients(batch: int, accumulation: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = spread(TASKS[task].model(config), 0.1).double()
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        arguments = TrainingArguments(
            output_dir=str(plan.output),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            learning_rate=1.0,
            lr_scheduler_type="constant",
            optim="sgd",
            max_grad_norm=0.0,
            train_sampling_strategy="sequential",
            remove_unused_columns=False,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        together = collator(plan, tokenizer, config)
        trainers.LongformerTrainer(model, arguments, train_dataset=features, data_collator=together).train()
        return {name: before[name] - parameter.detach() for name, parameter in model.named_parameters()}

    large, accumulated = gradients(12, 1), gradients(5, 3)
    scale = max(float(step.abs().max()) for step in large.values())
    assert scale > 1e-3
    for name, step in large.items():
        torch.testing.assert_close(accumulated[name], step, atol=1e-5 * scale, rtol=1e-5, msg=name)


def test_a_causal_model_learns_and_generates(tokenizer_folder: str, tmp_path: Path) -> None:
    """By the command, new and from a masked checkpoint; its perplexity is that of its own losses."""
    source = write_rows(tmp_path / "data.jsonl", [{"text": "the king saw the river"}] * 4)
    new = ["--config", json.dumps(model_fields()), "--tokenizer", tokenizer_folder, "--output"]
    options = ["--train", f"{source}=1", "--eval", source, "--max-length", "60", "--max-eval-rows", "2", "--batch", "2"]
    command = ["train", *options, "--learning-rate", "1e-2", "--precision", "float32", "--task"]
    assert cli.main([*command, "causal-lm", "--max-steps", "40", *new, str(tmp_path / "new")]) == 0
    assert cli.main([*command, "masked-lm", "--max-steps", "3", *new, str(tmp_path / "masked")]) == 0
    masked = ["--model", str(tmp_path / "masked"), "--output", str(tmp_path / "tuned")]
    assert cli.main([*command, "text-generation", "--max-steps", "40", *masked]) == 0
    for folder in (tmp_path / "new", tmp_path / "tuned"):
        generate = pipeline("text-generation", model=str(folder))
        result = generate("the king", do_sample=False, max_new_tokens=12, return_full_text=False)
        assert result[0]["generated_text"] == " saw the river"
        scores = json.loads((folder / "scores.json").read_text())
        assert scores["eval_perplexity"] == pytest.approx(math.exp(scores["eval_loss"]), rel=1e-3)
        assert scores["eval_perplexity"] < 3
    back = ["--model", str(tmp_path / "tuned"), "--config", '{"is_causal": false}', "--output", str(tmp_path / "back")]
    assert cli.main([*command, "masked-lm", "--max-steps", "1", *back]) == 0
    config = AutoConfig.from_pretrained(tmp_path / "back")
    assert (config.is_causal, config.architectures) == (False, ["LongformerPlusForMaskedLM"])
    for folder, closed in (("tuned", False), ("back", True)):
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / folder)
        assert (tokenizer("the king")["input_ids"][-1] == tokenizer.eos_token_id) is closed


class KilledError(Exception):
    pass


class Killer(trainers.Progress):
    """Ends a run between two checkpoints."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            raise KilledError


def test_a_finished_run_is_trained_on_where_trainer_has_no_way_to_load_it(tmp_path: Path) -> None:
    """The method is private: a Trainer without it makes one step more."""
    state = training.TrainerState(global_step=3, max_steps=3)
    state.save_to_json(str(tmp_path / "trainer_state.json"))
    loaded: list[str] = []
    trainer: Any = SimpleNamespace(is_world_process_zero=lambda: True, is_local_process_zero=lambda: True)
    assert not training._restore_if_finished(trainer, TrainingPlan("text-classification", [], ""), tmp_path)
    trainer._load_from_checkpoint = loaded.append
    assert training._restore_if_finished(trainer, TrainingPlan("text-classification", [], ""), tmp_path)
    assert loaded == [str(tmp_path)]


@pytest.mark.parametrize("task", ["fill-mask", "text-classification"])
def test_a_resumed_run_ends_as_one_left_alone(task: str, make_plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    changes = {"config": model_fields(**fields), "max_steps": 6, "batch_size": 3, "save_every": 2}
    alone = train_in(make_plan(task, "alone", **changes))
    with monkeypatch.context() as patch:
        patch.setattr(trainers, "Progress", Killer)
        with pytest.raises(KilledError):
            train(make_plan(task, "killed", **changes))
    killed = Path(make_plan(task, "killed").output)
    assert last_checkpoint(killed).name == "checkpoint-2"
    with pytest.raises(FileExistsError, match="resume the run in it"):
        train(make_plan(task, "killed", **changes))
    with pytest.raises(ValueError, match=r"holds a run with another learning_rate: it was 0\.001, not 0\.5"):
        train(make_plan(task, "killed", **{**changes, "learning_rate": 0.5, "resume": True}))
    # As on another machine.
    resumed = train_in(make_plan(task, "killed", **changes, workers=1, keep=1, resume=True))
    assert losses(resumed) == losses(alone)
    train(make_plan(task, "killed", **changes, resume=True))
    assert losses(resumed) == losses(alone), "a finished run is not trained on"
    for name, value in safetensors.torch.load_file(alone / "model.safetensors").items():
        assert torch.equal(value, safetensors.torch.load_file(resumed / "model.safetensors")[name]), name


@pytest.mark.parametrize("given", [{}, {"sparse_prediction": True}])
def test_checkpoints_have_the_configuration_that_was_given(given: dict[str, bool], make_plan: Any) -> None:
    output = train_in(make_plan("fill-mask", config={**model_fields(), **given}))
    folders = [output / "checkpoint-2", output / "checkpoint-4", output]
    assert [AutoConfig.from_pretrained(folder).sparse_prediction for folder in folders] == [bool(given)] * 3


def test_training_computes_the_logits_of_labelled_tokens_alone(make_plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {True: set(), False: set()}
    forward = LongformerPlusForMaskedLM.forward

    def watched(self: LongformerPlusForMaskedLM, *args: Any, **kwargs: Any) -> Any:
        outputs = forward(self, *args, **kwargs)
        shapes[self.training].add(outputs.logits.ndim)
        return outputs

    monkeypatch.setattr(LongformerPlusForMaskedLM, "forward", watched)
    train(make_plan("fill-mask", max_steps=1))
    assert shapes == {True: {2}, False: {3}}


def test_a_run_of_a_plan_with_fewer_fields_is_resumed(make_plan: Any) -> None:
    """As after an upgrade that added some."""
    task = "text-classification"
    output = train_in(make_plan(task, max_steps=2))
    recorded = output / "training.json"
    fields = json.loads(recorded.read_text())
    for name in ("weight_decay", "columns", "lora_targets"):
        del fields[name]
    recorded.write_text(json.dumps(fields))
    for changes, was in (
        ({"weight_decay": 0.5}, r"weight_decay: it was 0\.01, not 0\.5"),
        ({"seed": 3}, "seed: it was 0"),
    ):
        with pytest.raises(ValueError, match=f"holds a run with another {was}"):
            train(make_plan(task, max_steps=2, resume=True, **changes))
    before = losses(output)
    train(make_plan(task, max_steps=2, resume=True))
    assert losses(output) == before


def test_checkpoints_that_were_cut_off_are_passed_over(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    for step, state in ((9, '{"step": 9}'), (10, '{"step": 10}'), (11, '{"st'), (12, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_evaluation_gathers_no_attentions(make_plan: Any, tokenizer_folder: str, tmp_path: Path) -> None:
    plan = make_plan("token-classification")
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    data = prepare(plan, tokenizer, 100)
    fields = {**model_fields(num_labels=2), "vocab_size": len(tokenizer), "output_hidden_states": True}
    config = LongformerPlusConfig(**fields)
    model = TASKS[plan.task].model._from_config(config, attn_implementation="eager")
    model.config.output_attentions = True
    trainer = Trainer(
        model,
        TrainingArguments(str(tmp_path), report_to=[], remove_unused_columns=False, disable_tqdm=True),
        data_collator=collator(plan, tokenizer, config),
    )
    assert trainer.label_names == ["labels"]
    predicted = trainer.predict(data.evaluation)
    assert predicted.predictions.shape == (*predicted.label_ids.shape, 2)


@pytest.mark.parametrize("task", TASKS)
def test_metrics_take_whole_logits_too(task: str, make_plan: Any, tokenizer_folder: str, tmp_path: Path) -> None:
    plan = make_plan(task, batch_size=3)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    data = prepare(plan, tokenizer, 100)
    config = LongformerPlusConfig(**{**model_fields(num_labels=2), "vocab_size": len(tokenizer), **data.config})
    model = spread(TASKS[task].model(config))
    scores = []
    for shrink in (None, TASKS[task].shrink_logits):
        trainer = Trainer(
            model,
            TrainingArguments(
                str(tmp_path),
                report_to=[],
                remove_unused_columns=False,
                per_device_eval_batch_size=3,
                label_names=list(TASKS[task].label_names),
            ),
            data_collator=collator(plan, tokenizer, config),
            eval_dataset=data.evaluation,
            compute_metrics=TASKS[task].compute_metrics(data.evaluation, data.names),
            preprocess_logits_for_metrics=shrink,
        )
        torch.manual_seed(0)  # which tokens masked-LM hides
        scores.append({name: value for name, value in trainer.evaluate().items() if name[5:] in TASKS[task].scores})
    assert scores[0].keys() == {f"eval_{name}" for name in TASKS[task].scores}
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)


def test_a_fine_tuned_checkpoint_is_trained_on(make_plan: Any) -> None:
    pretrained = train_in(make_plan("fill-mask"))
    tuned = train_in(make_plan("text-classification", "tuned", model=str(pretrained), config=None, tokenizer=None))
    assert len(losses(tuned)) == 4


@pytest.mark.parametrize(
    "task",
    [
        "text-generation",
        pytest.param("token-classification", marks=pytest.mark.slow),
        pytest.param("fill-mask", marks=pytest.mark.slow),
    ],
)
def test_lora_trains_adapters_and_loads_in_two_lines(task: str, make_plan: Any, capsys: pytest.CaptureFixture) -> None:
    adapters = pytest.importorskip("longformer_plus.integrations.adapters")
    pretrained = train_in(make_plan("fill-mask"))
    changes = {"model": str(pretrained), "config": None, "tokenizer": None, "lora": 4}
    tuned = train_in(make_plan(task, "tuned", **changes))
    assert (tuned / "adapter_model.safetensors").is_file()
    assert not (tuned / "model.safetensors").exists()
    printed = capsys.readouterr().out
    assert "parameters trained" in printed
    loader = printed.rsplit("Load it: from longformer_plus.integrations.adapters import load_adapted; ", 1)[1].strip()
    model = eval(loader, vars(adapters))
    assert isinstance(model.get_base_model(), TASKS[task].model)
    if task == "token-classification":
        assert model.get_base_model().config.id2label == {0: "B-LOC", 1: "O"}


@pytest.mark.parametrize(
    "task",
    [
        "token-classification",
        pytest.param("question-answering", marks=pytest.mark.slow),
        pytest.param("fill-mask", marks=pytest.mark.slow),
    ],
)
def test_adapters_are_trained_on(task: str, make_plan: Any) -> None:
    adapters = pytest.importorskip("longformer_plus.integrations.adapters")
    pretrained = train_in(make_plan("fill-mask"))
    changes = {"config": None, "tokenizer": None, "max_steps": 3, "learning_rate": 1e-2}
    first = train_in(make_plan(task, "first", **changes, model=str(pretrained), lora=4))
    # As PEFT alone saves adapters: the tokenizer is that of their base.
    for path in first.glob("tokenizer*"):
        path.unlink()
    second = train_in(make_plan(task, "second", **changes, model=str(first)))
    before, after = (safetensors.torch.load_file(folder / "adapter_model.safetensors") for folder in (first, second))
    assert before.keys() == after.keys()
    assert all((before[name] != after[name]).any() for name in before if "lora_A.weight" in name)
    # It went on where the first run ended, not where that began.
    assert losses(second)[0] < losses(first)[0]
    model = adapters.load_adapted(second)
    assert model.peft_config["default"].base_model_name_or_path == str(pretrained)
    assert model.peft_config["default"].r == 4

    with pytest.raises(ValueError, match="holds adapters, which have their rank: leave --lora out"):
        train(make_plan(task, "third", **changes, model=str(first), lora=8))
    if task == "token-classification":
        source = write_rows(Path(second) / "other.jsonl", [{"tokens": ["a", "b"], "ner_tags": ["O", "B-PER"]}])
        with pytest.raises(ValueError, match=r"for the classes \['B-LOC', 'O'\], the data have \['B-PER', 'O'\]"):
            train(replace(make_plan(task, "third", **changes, model=str(first)), train=[source], evaluation=[]))
    with pytest.raises(ValueError, match=r"holds adapters for LongformerPlusFor.*, not for text-classification"):
        train(make_plan("text-classification", "third", **changes, model=str(first)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "sleep"}, "task='sleep' is not allowed: it must be one of 'fill-mask'"),
        ({"config": None}, "Give a checkpoint to start from"),
        ({"config": {**model_fields(), "hiden_size": 16}}, r"config=\['hiden_size'\] is not allowed"),
        ({"tokenizer": None}, "A new model needs a tokenizer"),
        ({"lora": 8}, "LoRA adapts trained weights"),
        ({"lora_targets": ["query"]}, "lora_targets are for LoRA"),
        ({"join_by": "title"}, "join_by is for question-answering, not for text-classification"),
        ({"precision": "float8"}, "precision='float8' is not allowed"),
        ({"batch_size": 0}, "batch_size=0 is not allowed"),
        ({"save_every": 0}, "save_every=0 is not allowed"),
        ({"warmup": 100}, "warmup=100 is not allowed: it is a share of the steps"),
        ({"unanswered_share": 5}, "unanswered_share=5 is not allowed"),
        ({"schedule": "steep"}, "steep is not a valid SchedulerType"),
        ({"weights": [1.0]}, "text-classification takes every row of its sources"),
        ({"task": "fill-mask", "max_train_rows": 3}, "use --max-steps in place of --max-train-rows"),
        ({"task": "fill-mask", "group_by_length": True}, "leave --group-by-length out"),
        ({"tokenizer": "no/such"}, "no/such holds no tokenizer"),
        ({"config": {**model_fields(), "vocab_size": 10}}, "The tokenizer has 300 entries, the model 10"),
    ],
)
def test_wrong_plans(changes: dict[str, Any], message: str, make_plan: Any) -> None:
    task = changes.pop("task", "text-classification")
    plan = make_plan("text-classification", **changes)
    plan.task = task
    with pytest.raises(ValueError, match=message):
        train(plan)


def test_a_task_without_global_tokens_is_warned_of(
    make_plan: Any, warnings_of_transformers: pytest.LogCaptureFixture
) -> None:
    train(make_plan("text-classification", global_attention="none", max_steps=1))
    assert "No token will attend globally" in warnings_of_transformers.text


def test_the_command(tokenizer_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = write_rows(tmp_path / "data.jsonl", rows("text-classification"))
    new = ["--config", json.dumps(model_fields()), "--tokenizer", tokenizer_folder, "--output", str(tmp_path / "new")]
    steps = ["--max-steps", "2", "--batch", "2"]
    assert cli.main(["train", "--task", "text-classification", "--train", source, "--eval", source, *new, *steps]) == 0
    assert "evaluation: loss" in capsys.readouterr().out
    other = write_rows(tmp_path / "bad.jsonl", [*rows("text-classification", 2), {"text": "x", "label": "maybe"}])
    for arguments, message in (
        (["--train", source, "--eval", other], "bad.jsonl, line 3: label 'maybe' is out of range: the classes are"),
        (["--train", "no/such.jsonl"], "no/such.jsonl is not a file"),
        (["--train", source, "--columns", "text"], "'text' is not FIELD=COLUMN"),
    ):
        with pytest.raises(SystemExit) as error:
            cli.main(["train", "--task", "text-classification", *arguments, *new[:4], "--output", str(tmp_path / "x")])
        assert error.value.code == 2
        assert message in capsys.readouterr().err
    assert cli.main(["tokenizer", source, "--size", "290", "--output", str(tmp_path / "own")]) == 0
    assert "290 entries" in capsys.readouterr().out


def test_weights_of_sources() -> None:
    from longformer_plus.cli.train import weighted_sources

    assert weighted_sources(["a", "b"]) == (["a", "b"], None)
    assert weighted_sources(["a=1", "b=x=2.5"]) == (["a", "b=x"], [1.0, 2.5])
    with pytest.raises(ValueError, match="Give every source a weight or none"):
        weighted_sources(["a=1", "b"])
    with pytest.raises(ValueError, match="is no number"):
        weighted_sources(["a=much"])


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_killed_at_any_step_and_resumed(task: str, tokenizer_folder: str, tmp_path: Path) -> None:
    """SIGKILL, several times, at steps that differ from run to run; then the losses of a run left alone."""
    source = write_rows(tmp_path / "data.jsonl", rows(task, 20))
    config = model_fields(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    options = ["--train", source, "--config", json.dumps(config), "--tokenizer", tokenizer_folder]
    options += ["--max-length", "100", "--overlap", "16", "--max-steps", "40", "--batch", "3", "--save-every", "3"]
    command = [sys.executable, "-m", "longformer_plus.cli", "train", "--task", task, *options, "--log-every", "1"]
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    subprocess.run([*command, "--output", alone], check=True, capture_output=True)
    kills = 0
    for patience in (0.0, 0.3, 0.6):
        before = last_checkpoint(killed)
        process = subprocess.Popen(
            [*command, "--output", killed, "--resume"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and last_checkpoint(killed) == before:
            time.sleep(0.01)
        time.sleep(patience)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills
    subprocess.run([*command, "--output", killed, "--resume"], check=True, capture_output=True)
    assert losses(killed) == losses(alone)
