"""Ask a running demo by a program: `python client.py http://127.0.0.1:7860/`."""

import sys

from gradio_client import Client

TEXT = "The captain looked at the sea. The wind had blown for three days, and the captain said nothing."


def main(url: str) -> None:
    """Print what the word "wind" looks at in the first layer, and the likeliest word for a mask."""
    client = Client(url, verbose=False)
    for link in client.predict(text=TEXT, token=9, layer=0, count=5, api_name="/links"):
        print(f"{link['token']!r} at {link['position']}: {link['weight']:.3f}")
    (guess,) = client.predict(text="The captain looked at the <mask>.", api_name="/guesses")
    print(f"{guess['word']} ({guess['score']:.0%}), or {guess['others']}")


if __name__ == "__main__":
    main(sys.argv[1])
