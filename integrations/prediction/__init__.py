"""Predictions for whole corpora: what `longformer-plus predict` does.

summary = predict(PredictionPlan("text-classification", "my-classifier", ["reviews/"], "labels"))
"""

from .plan import PredictionPlan
from .run import Summary, predict

__all__ = ["PredictionPlan", "Summary", "predict"]
