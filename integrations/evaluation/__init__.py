"""A checkpoint's scores on held-out documents, beside simple baselines. Needs the extra `train`."""

from .run import EvaluationPlan, evaluate_checkpoint

__all__ = ["EvaluationPlan", "evaluate_checkpoint"]
