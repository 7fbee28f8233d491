"""The page's colours: gradio's own, with texts and buttons dark enough to be read (WCAG AA, 4.5:1)."""

from __future__ import annotations

import gradio as gr

# The theme has one accent for both modes; on a dark page it would be too dark for the selected tab.
CSS = ":root body.dark { --color-accent: var(--primary-400); }"


def theme() -> gr.themes.Base:
    """gradio's default theme with system fonts and more contrast."""
    base = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return base.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
        button_cancel_background_fill="*neutral_200",
        button_cancel_text_color="*neutral_800",
        color_accent="*primary_700",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
    )
