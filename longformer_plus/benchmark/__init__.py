"""Times and memory beside transformers' Longformer: what is measured, how, and the report of it."""
