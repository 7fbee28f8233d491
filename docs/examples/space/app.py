"""The demo as a Space and in a container: `python app.py`.

The variable MODEL names a checkpoint, a folder or a name on the hub; without it the one of the package is shown.
FILL_MASK, QUESTION_ANSWERING, TEXT_CLASSIFICATION and TOKEN_CLASSIFICATION name those of the tasks.
"""

import os

from longformer_plus.demo.app import launch
from longformer_plus.demo.checkpoints import TASKS, Checkpoints


def main() -> None:
    """Serve the page at port 7860 of every network: what is before it decides who may see it."""
    options = [task.replace("-", "_") for task in TASKS]
    by_task = {option: os.environ.get(option.upper()) for option in options}
    checkpoints = Checkpoints.find(os.environ.get("MODEL"), **by_task)
    launch(checkpoints, "0.0.0.0", 7860, ssr_mode=False)  # noqa: S104


if __name__ == "__main__":
    main()
