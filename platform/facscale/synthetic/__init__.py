"""Rendered talking faces with known ground truth; nothing is downloaded, and equal seeds give equal pixels.

`anatomy` has the template head, `identity` the differences between people, `actions` and `wrinkles` the effects of the
15 action units, `motion` the course of a clip, `skin` and `parts` the textures. `scene`, `raster` and `render` turn them
into images, `clip` adds the ground truth, `trees` and `expressions` write data sets in public layouts, `ground_truth`
makes aligned faces for evaluation, and `benchmark_dlib` measures how well dlib detects the faces.
"""

from __future__ import annotations

from facscale.synthetic.actions import AUS
from facscale.synthetic.clip import Clip, FlowField, render_clip
from facscale.synthetic.expressions import write_expressions
from facscale.synthetic.sheet import render_au_sheet, render_contact_sheet
from facscale.synthetic.trees import TreeSummary, write_tree

__all__ = [
    "AUS",
    "Clip",
    "FlowField",
    "TreeSummary",
    "render_au_sheet",
    "render_clip",
    "render_contact_sheet",
    "write_expressions",
    "write_tree",
]
