"""What a layer sends and computes when a document is spread over devices, by arithmetic: prints the table of the guide.

python docs/results/context_parallel/cost.py

Base size, a training step (forward and backward) of one layer, for each device. Three ways: ours (a window attends to
its neighbours), ring attention and Ulysses (full attention). Nothing overlaps, which is the worst case of each way.
"""

from __future__ import annotations

HIDDEN, HEADS, WINDOW, BYTES = 768, 12, 512, 2  # bfloat16
RATE = 200e12  # operations a second that a device reaches
LINKS = {"50 GB/s": 50e9, "1.25 GB/s": 1.25e9}  # of each device, each way: InfiniBand, and 10 Gb Ethernet
LENGTHS = (2**17, 2**20, 2**24)
DEVICES = (2, 16, 256)


def operations(tokens: int, keys: float) -> float:
    """Of a layer's forward and backward over so many tokens, each with so many keys; the backward is twice the forward.

    Twelve squares of the hidden size are the projections and the feed-forward; scores and their mix are two products.
    """
    return 3 * (2 * tokens * 12 * HIDDEN**2 + 2 * 2 * tokens * keys * HIDDEN)


def halo_bytes(devices: int) -> float:
    """What a device in the middle sends: keys and values of half a window each way, and their gradients back."""
    return 0 if devices == 1 else 2 * 2 * (WINDOW // 2) * 2 * HIDDEN * BYTES


def ring_bytes(length: int, devices: int) -> float:
    """The keys and values of all others pass through each device; in the backward again, with their gradients."""
    return 3 * 2 * length / devices * (devices - 1) * HIDDEN * BYTES


def ulysses_bytes(length: int, devices: int) -> float:
    """Queries, keys, values and contexts change from tokens to heads and back, and so do their gradients."""
    return 2 * 4 * length / devices * (devices - 1) / devices * HIDDEN * BYTES


def efficiency(work: float, sent: float, link: float) -> float:
    """The share of the time that a device computes."""
    return work / RATE / (work / RATE + sent / link)


def table() -> str:
    """The table of the guide, in Markdown."""
    links = list(LINKS)
    heads = ["tokens", "devices", "way", "GB sent", "TFLOP", "seconds", *(f"efficiency at {link}" for link in links)]
    lines = ["| " + " | ".join(heads) + " |", "|" + " ---: |" * 2 + " --- |" + " ---: |" * (3 + len(links))]
    for length in LENGTHS:
        for devices in DEVICES:
            own = length // devices
            ways = [
                ("ours", halo_bytes(devices), operations(own, WINDOW + 1)),
                ("ring", ring_bytes(length, devices), operations(own, length)),
            ]
            if devices <= HEADS:  # each device has whole heads
                ways.append(("Ulysses", ulysses_bytes(length, devices), operations(own, length)))
            for name, sent, work in ways:
                shares = [f"{efficiency(work, sent, LINKS[link]):.1%}" for link in links]
                seconds = work / RATE + sent / LINKS[links[0]]
                row = [f"{length:,}", str(devices), name, f"{sent / 1e9:.4f}", f"{work / 1e12:.2f}", f"{seconds:.4f}"]
                lines.append("| " + " | ".join([*row, *shares]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
