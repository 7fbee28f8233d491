"""PEFT's own tests; `python -m tests.tools.peft_suite` fetches them. See `outside_suites`."""

from __future__ import annotations

from .outside_suites import Suite

# Only asked whether a model is one of its pipelines.
SUITE = Suite("peft", {"diffusers": {"StableDiffusionPipeline": type("StableDiffusionPipeline", (), {})}})

if __name__ == "__main__":
    print(SUITE.fetch())
