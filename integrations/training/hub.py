"""What is shared on the hub at the end of a run: the model, its tokenizer, its scores, and a card that describes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import HfApi, ModelCard, ModelCardData
from transformers import Trainer

from ..tasks import task_named
from .plan import TrainingPlan
from .report import say, scores_line

# Of no use to others, or of this machine alone.
_LEFT_OUT = ["checkpoint-*", "runs/*", "training.json", "trainer_state.json"]


def open_repository(trainer: Trainer) -> None:
    """Make the repository, if there is none. What keeps it from being written to shows before hours of training.

    Raises:
        OSError: the hub cannot be reached, or does not allow it.
    """
    name = trainer.args.hub_model_id
    try:
        trainer.init_hf_repo()
    except Exception as error:  # of the client, which differs between versions of huggingface_hub
        raise OSError(
            f"{name} on the hub cannot be written to: {_first_line(error)} Log in with `hf auth login`, or set "
            "HF_TOKEN."
        ) from error


def push(trainer: Trainer, plan: TrainingPlan, scores: Mapping[str, float]) -> None:
    """Upload the output folder of a run, with a card.

    Raises:
        OSError: the hub cannot be reached.
    """
    if not trainer.is_world_process_zero():
        return
    name, output = str(trainer.hub_model_id), Path(plan.output)
    model_card(plan, name, scores).save(output / "README.md")
    try:
        HfApi().upload_folder(
            repo_id=name, folder_path=output, commit_message=f"Train for {plan.task}", ignore_patterns=_LEFT_OUT
        )
    except Exception as error:  # see above
        raise OSError(
            f"The model is in {output}, but could not be sent to {name} on the hub: {_first_line(error)} Try again "
            "with the same command and --resume, which does not train again."
        ) from error
    say(f"Shared as {name} on the hub.")


def model_card(plan: TrainingPlan, name: str, scores: Mapping[str, float]) -> ModelCard:
    """What others read of a trained model: how to load it, how it was trained, and its scores.

    Args:
        plan: how it was trained.
        name: of its repository.
        scores: those of its evaluation, none where there was none.
    """
    # The folders of this machine say nothing to others.
    base = plan.model if plan.model is not None and not Path(plan.model).is_dir() else None
    data = ModelCardData(
        model_name=name,
        base_model=base,
        library_name="peft" if plan.trains_adapters else "transformers",
        pipeline_tag=None if plan.task == "text-regression" else plan.task,
        tags=["longformer_plus", *(["lora"] if plan.trains_adapters else [])],
    )
    start = f"adapters on `{base}`" if plan.trains_adapters else f"trained from `{base}`" if base else "trained"
    sources = ", ".join(f"`{Path(source).name}`" for source in plan.train)
    length = f"{plan.max_steps:,} steps" if plan.max_steps else f"{plan.epochs:g} epochs"
    batch = f"batches of {plan.rows_per_step}, a learning rate of {plan.learning_rate:g}"
    evaluation = f"\n## Evaluation\n\nOn held-out data: {scores_line(scores)}.\n" if scores else ""
    return ModelCard(
        f"""---
{data.to_yaml()}
---

# {name.rpartition("/")[2]}

A [LongformerPlus](https://pypi.org/project/longformer-plus) for {plan.task}, {start}, for documents of any length.

```python
# pip install longformer-plus{"[peft] huggingface_hub" if plan.trains_adapters else ""}
{_loading(plan, name)}
```

## Training

On {sources}, for {length} at most, with {batch}, seed {plan.seed}.
{evaluation}"""
    )


def _loading(plan: TrainingPlan, name: str) -> str:
    if plan.trains_adapters:
        return (
            "from huggingface_hub import snapshot_download\n"
            "from longformer_plus.integrations.adapters import load_adapted\n\n"
            f'model = load_adapted(snapshot_download("{name}"))'
        )
    auto_class = task_named(plan.task).auto_class
    return (
        "import longformer_plus\n"
        f"from transformers import {auto_class}, AutoTokenizer\n\n"
        f'model = {auto_class}.from_pretrained("{name}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")'
    )


def _first_line(error: Exception) -> str:
    line = str(error).strip().split("\n")[0]
    return line if line.endswith(".") else f"{line}."
