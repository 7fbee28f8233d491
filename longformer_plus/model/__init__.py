"""The model, from inputs to task heads. Follow a batch from `encoder.LongformerPlusModel.forward`."""
