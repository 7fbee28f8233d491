"""From files to batches: sources are read, documents become features or packed rows, collators make batches."""
