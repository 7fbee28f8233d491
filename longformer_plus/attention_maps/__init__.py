"""From attention to what a person looks at, without ever building N x N for a long document.

`attention_maps` runs a model on a text; `AttentionMaps.from_outputs` takes what a model has returned. Both keep the
windows and the global rows, in 8 or 16 bits a weight, and answer from them.
"""

from .averages import average
from .behaviour import Behaviour, head_behaviour
from .comparison import align, head_changes
from .contributions import contributions, num_value_bytes
from .exports import for_bertviz, strongest_links, to_html, to_numpy, to_pandas
from .lens import logit_lens
from .maps import AttentionMaps, Link, Links
from .notebook import Shown, show
from .pictures import Picture, band, band_picture, global_picture
from .recording import DocumentMaps, add_values, attention_maps, mask_of, record
from .saliency import gradient_times_input
from .units import Units, unit_attention
from .words import Words, by_character

__all__ = [
    "AttentionMaps",
    "Behaviour",
    "DocumentMaps",
    "Link",
    "Links",
    "Picture",
    "Shown",
    "Units",
    "Words",
    "add_values",
    "align",
    "attention_maps",
    "average",
    "band",
    "band_picture",
    "by_character",
    "contributions",
    "for_bertviz",
    "global_picture",
    "gradient_times_input",
    "head_behaviour",
    "head_changes",
    "logit_lens",
    "mask_of",
    "num_value_bytes",
    "record",
    "show",
    "strongest_links",
    "to_html",
    "to_numpy",
    "to_pandas",
    "unit_attention",
]
