"""LongformerPlus with the libraries around it: from files to batches, tasks, training, evaluation, adapters, export."""
