"""What `longformer-plus evaluate` does."""
