"""`python -m longformer_plus.cli`."""

from . import main

raise SystemExit(main())
