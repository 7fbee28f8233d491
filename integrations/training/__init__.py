"""Fine-tuning for every task, and pretraining. Needs the extra `train`."""

from .plan import TrainingPlan
from .run import last_checkpoint, train

__all__ = ["TrainingPlan", "last_checkpoint", "train"]
