"""How well a model does: metrics, and the baselines that it has to beat."""
