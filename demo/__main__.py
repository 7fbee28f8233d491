"""`python -m longformer_plus.demo`."""

import sys

from longformer_plus.cli import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
