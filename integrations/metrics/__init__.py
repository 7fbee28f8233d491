"""How well a model does: metrics, and the baselines that it has to beat. Needs the extra `train`."""

from .metrics import (
    AnswerMetric,
    ClassificationMetric,
    EntityMetric,
    MultiLabelMetric,
    RegressionMetric,
    TokenMetric,
    answer_overlap,
    answers_match,
)

__all__ = [
    "AnswerMetric",
    "ClassificationMetric",
    "EntityMetric",
    "MultiLabelMetric",
    "RegressionMetric",
    "TokenMetric",
    "answer_overlap",
    "answers_match",
]
