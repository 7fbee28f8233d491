"""What is to be predicted, and how; and whether a run that is resumed is the same one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from longformer_plus.version import __version__

from ..data.files import state_of
from ..long_documents.embedding import POOLINGS
from ..precision import PRECISIONS
from .tasks import PREDICTED

FORMATS = ("jsonl", "parquet")
ENGINES = ("local", "ray")
# What does not change what is written.
_NOT_RECORDED = ("output", "resume", "workers", "engine", "ray_address")


@dataclass
class PredictionPlan:
    """What is to be predicted, and how.

    Attributes:
        task: a task that can be predicted, by its name.
        model: a checkpoint with the task's head, or adapters for it: a folder, or a name on the hub.
        input: sources of documents; see `data.sources`.
        output: the folder to write; new or empty, unless a run in it is resumed.
        columns: what fields are called in the sources.
        question: for question answering, the question that all documents are asked; by default each row has its own.
        pooling: for embeddings, "mean" or "first".
        normalize: make embeddings of length 1.
        format: "jsonl" or "parquet".
        max_length: the most tokens of a stretch; as many as the model has positions for by default.
        batch_tokens: the most tokens of a batch, padding included.
        part_size: documents of a part of the output. A run that is killed loses no more than one.
        precision: "float32", "bfloat16", "int8", or "auto"; see `precision.choose_precision`.
        workers: processes that share the work, each with a model; of the engine "ray" its actors.
        engine: "local", or "ray" for the actors of a Ray cluster.
        ray_address: where the cluster is; by default that of this machine, which is started if there is none.
        resume: go on with the run in the output folder, if there is one.
    """

    task: str
    model: str
    input: Sequence[str]
    output: str | Path
    columns: Mapping[str, str] = field(default_factory=dict)
    question: str | None = None
    pooling: str = "mean"
    normalize: bool = False
    format: str = "jsonl"
    max_length: int | None = None
    batch_tokens: int = 16384
    part_size: int = 256
    precision: str = "auto"
    workers: int = 1
    engine: str = "local"
    ray_address: str | None = None
    resume: bool = False

    def check(self) -> None:
        """Raise a ValueError for the first value that is not allowed."""
        for name, allowed in (
            ("task", tuple(PREDICTED)),
            ("format", FORMATS),
            ("precision", PRECISIONS),
            ("pooling", POOLINGS),
            ("engine", ENGINES),
        ):
            if getattr(self, name) not in allowed:
                choices = ", ".join(map(repr, allowed))
                raise ValueError(f"{name}={getattr(self, name)!r} is not allowed: it must be one of {choices}.")
        for name in ("batch_tokens", "part_size", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not allowed: it must be at least 1.")
        if self.ray_address is not None and self.engine != "ray":
            raise ValueError(f"ray_address={self.ray_address!r} is not allowed without engine='ray'.")
        if not self.input:
            raise ValueError("There is nothing to read: give at least one source.")
        output = Path(self.output).resolve()
        for source in map(Path, self.input):
            if source.is_dir() and source.resolve() in (output, *output.parents):
                raise ValueError(f"{self.output} lies in {source}, which is read: name a folder outside of it.")
        if self.question is not None and self.task != "question-answering":
            raise ValueError(f"question={self.question!r} is not allowed: {self.task} asks none.")
        if (self.pooling != "mean" or self.normalize) and self.task != "feature-extraction":
            raise ValueError(f"pooling and normalize are for feature-extraction, not for {self.task}.")

    def record(self) -> dict[str, Any]:
        """The plan, with the state of the files that it reads, as it is kept beside what it writes."""
        told = {name: value for name, value in asdict(self).items() if name not in _NOT_RECORDED}
        model = state_of([self.model]) if Path(self.model).is_dir() else []
        told = {**told, "input_files": state_of(self.input), "model_files": model, "version": __version__}
        return json.loads(json.dumps(told))


def check_unchanged(plan: PredictionPlan, before: Mapping[str, Any]) -> None:
    """Raise a ValueError that names what is another in a plan than in the record of the run that it would resume."""
    now = plan.record()
    changed = [name for name in now if now[name] != before.get(name)]
    if not changed:
        return
    name = changed[0]
    if name.endswith("_files"):
        known = {tuple(each) for each in before.get(name, [])}
        differing = [each[0] for each in now[name] if tuple(each) not in known] or ["a file that is gone"]
        raise ValueError(
            f"{plan.output} holds a run over other files: {differing[0]} has changed since, or was not part of it. "
            "Name another folder."
        )
    raise ValueError(
        f"{plan.output} holds a run with another {' and '.join(changed)}: it was {before.get(name)!r}, not "
        f"{now[name]!r}. Resume with the same options, or name another folder."
    )
