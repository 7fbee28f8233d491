"""transformers' own model tests; `python -m tests.tools.transformers_suite` fetches them. See `outside_suites`."""

from __future__ import annotations

from .outside_suites import Suite

# Folders that the source distribution leaves out. What the rest imports from them has no tests here: generation and
# export are tested in tests of their own.
SUITE = Suite(
    "transformers",
    {
        ".exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
        ".generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
        ".utils.test_configuration_utils": {
            "config_common_kwargs": {
                "return_dict": False,
                "output_hidden_states": True,
                "chunk_size_feed_forward": 5,
                "id2label": {0: "label"},
                "label2id": {"label": "0"},
                "problem_type": "regression",
            }
        },
    },
)

if __name__ == "__main__":
    print(SUITE.fetch())
