"""The tasks: everything that is known of each stands in one file."""
