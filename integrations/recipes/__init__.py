"""Research, clearly labelled: experiments of papers, run again at a small size, and what was learned from them."""
