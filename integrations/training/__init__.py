"""What `longformer-plus train` does: a plan, its data and model, the run, its report."""
