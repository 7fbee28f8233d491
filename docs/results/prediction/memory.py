"""Peak memory of `longformer-plus predict` over few documents and over ten times as many.

python docs/results/prediction/memory.py --documents 2000

By default parts are small, so that the smaller run has batches of most sizes as well.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from longformer_plus import shipped_checkpoint

_SAMPLE = shipped_checkpoint().parent / "samples" / "lighthouses.txt"


def peak_bytes(folder: Path, count: int, words: int, part_size: int) -> int:
    """The most memory that the command holds for so many documents, embedded by the shipped checkpoint."""
    text = _SAMPLE.read_text(encoding="utf-8").split()
    corpus = folder / f"{count}.jsonl"
    with corpus.open("w", encoding="utf-8") as file:
        for place in range(count):
            start = place % (len(text) - words)
            file.write(json.dumps({"text": " ".join(text[start : start + words])}) + "\n")
    command = [sys.executable, "-m", "longformer_plus.cli", "predict", "--task", "feature-extraction"]
    command += ["--model", "shipped", "--input", str(corpus), "--output", str(folder / f"out{count}")]
    command += ["--part-size", str(part_size)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: S603
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"The command ended with {process.returncode}.")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--words", type=int, default=10, help="of each document")
    parser.add_argument("--part-size", type=int, default=8, help="documents of a part")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        few, many = (
            peak_bytes(Path(folder), count, options.words, options.part_size)
            for count in (options.documents, 10 * options.documents)
        )
    print(
        f"{options.documents:,} documents: {few / 1e6:,.0f} MB; {10 * options.documents:,}: {many / 1e6:,.0f} MB, "
        f"{many / few:.3f} of it"
    )


if __name__ == "__main__":
    main()
