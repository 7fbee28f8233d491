"""Research: experiments of the paper, run again at a small size. Nothing else depends on this room."""
