"""The pipeline "question-answering", which transformers 5 has no more, for documents of any length.

After `register_pipeline()`, `transformers.pipeline("question-answering", model=...)` gives it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import AutoModelForQuestionAnswering, Pipeline, pipelines

from .reading import Answer, answer_questions

TASK = "question-answering"
# What the options are called in transformers 4.
_OLD_NAMES = {
    "doc_stride": "overlap",
    "handle_impossible_answer": "null_answer",
    "max_answer_len": "max_answer_tokens",
    "max_seq_len": "max_length",
}


def register_pipeline() -> None:
    """Make `transformers.pipeline("question-answering", ...)` give a `LongQuestionAnsweringPipeline`."""
    pipelines.PIPELINE_REGISTRY.supported_tasks.pop(TASK, None)
    # Newer versions look a task up among those that were removed first.
    getattr(pipelines, "REMOVED_TASKS", {}).pop(TASK, None)
    pipelines.PIPELINE_REGISTRY.register_pipeline(
        TASK, LongQuestionAnsweringPipeline, pt_model=AutoModelForQuestionAnswering, type="text"
    )
    # With it, saving a pipeline would save this file too, as code that has to be trusted when it is loaded.
    del LongQuestionAnsweringPipeline._registered_impl  # type: ignore[attr-defined]


class LongQuestionAnsweringPipeline(Pipeline):
    """Extractive question answering by `answer_questions`, called as transformers 4 called its pipeline.

    `pipe(question="...", context="...")`, or with dicts of these two. Options, in a call or for all calls: those of
    `answer_questions`, also by their names in transformers 4; `batch_size` counts stretches.
    """

    _load_processor = False  # type: ignore[assignment]
    _load_image_processor = False  # type: ignore[assignment]
    _load_feature_extractor = False  # type: ignore[assignment]
    _load_tokenizer = True  # type: ignore[assignment]

    def __call__(self, inputs: Any = None, **options: Any) -> Any:  # type: ignore[override]
        """Answer questions.

        Args:
            inputs: a dict of "question" and "context", or a list of such. When None, `question` and `context` are given
                by name: two strings, or a list of questions and a list of as many contexts.
            options: those of `answer_questions`.

        Returns:
            A dict of `score`, `start`, `end` and `answer`, where `top_k` is above 1 a list of them; for a list of
            questions a list of these.

        Raises:
            ValueError: a question or a context is missing; or as `answer_questions` says.
        """
        if inputs is None:
            inputs = _by_sample(options.pop("question", None), options.pop("context", None))
        _, options, postprocess_options = self._sanitize_parameters(**options)
        options = {**self._forward_params, **options}
        if self._batch_size is not None:
            options.setdefault("batch_size", self._batch_size)
        results = self.run_single(inputs, {}, options, {**self._postprocess_params, **postprocess_options})
        return results[0] if isinstance(inputs, Mapping) else results

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        options = {_OLD_NAMES.get(name, name): value for name, value in options.items()}
        return {}, options, {name: options[name] for name in ("top_k",) if name in options}

    def preprocess(self, input_: Any, **_: Any) -> dict[str, Any]:
        """Questions and documents from what the pipeline is called with."""
        samples = [input_] if isinstance(input_, Mapping) else list(input_)
        for sample in samples:
            if not isinstance(sample, Mapping) or not {"question", "context"} <= sample.keys():
                raise ValueError(f"{sample!r} is not allowed: give a dict of a question and its context.")
        return {name: [sample[name] for sample in samples] for name in ("question", "context")}

    def _forward(self, input_tensors: dict[str, Any], **options: Any) -> Any:
        questions, documents = input_tensors["question"], input_tensors["context"]
        return answer_questions(self.model, self.tokenizer, questions, documents, **options)  # type: ignore[arg-type]

    def postprocess(self, model_outputs: Any, top_k: int = 1) -> list[Any]:  # type: ignore[override]
        """Answers as dicts."""
        results = [[_as_dict(answer) for answer in answers] for answers in model_outputs]
        return results if top_k > 1 else [answers[0] for answers in results]


def _by_sample(questions: str | Sequence[str] | None, contexts: str | Sequence[str] | None) -> Any:
    if questions is None or contexts is None:
        missing = "question" if questions is None else "context"
        raise ValueError(f"There is no {missing}: call the pipeline with question=... and context=..., or with a dict.")
    if isinstance(questions, str) and isinstance(contexts, str):
        return {"question": questions, "context": contexts}
    if isinstance(questions, str) or isinstance(contexts, str) or len(questions) != len(contexts):
        raise ValueError("Give as many contexts as questions, each in a list.")
    pairs = zip(questions, contexts, strict=True)
    return [{"question": question, "context": context} for question, context in pairs]


def _as_dict(answer: Answer) -> dict[str, Any]:
    return {"score": answer.score, "start": answer.start, "end": answer.end, "answer": answer.text}
