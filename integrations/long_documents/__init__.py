"""Documents of any length, read in overlapping stretches: answers, classes, tags, filled masks, and a pipeline."""

from .masks import Fill, FilledMask, fill_masks
from .pipeline import LongQuestionAnsweringPipeline, register_pipeline
from .reading import (
    Answer,
    Classification,
    Entity,
    Tag,
    answer_question,
    answer_questions,
    classify_document,
    classify_documents,
    find_entities,
    judge_stretches,
    tag_document,
    tag_documents,
)

__all__ = [
    "Answer",
    "Classification",
    "Entity",
    "Fill",
    "FilledMask",
    "LongQuestionAnsweringPipeline",
    "Tag",
    "answer_question",
    "answer_questions",
    "classify_document",
    "classify_documents",
    "fill_masks",
    "find_entities",
    "judge_stretches",
    "register_pipeline",
    "tag_document",
    "tag_documents",
]
