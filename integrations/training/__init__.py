"""Fine-tuning for every task, and pretraining. Needs the extra `train`."""

from .folder import last_checkpoint
from .plan import TrainingPlan
from .run import train
from .stopping import TrainingStopped

__all__ = ["TrainingPlan", "TrainingStopped", "last_checkpoint", "train"]
