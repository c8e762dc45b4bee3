"""Rendered talking faces with known truth; nothing is downloaded, and a seed gives the same pixels again.

`anatomy` is the template head, `identity` who somebody is, `actions` and `wrinkles` what the 15 action units do to a
face, `motion` what happens in a clip, `skin` and `parts` the paint, `scene`, `raster` and `render` make a picture of it
all, `clip` adds the truth, `trees` and `expressions` write data sets, `check` asks dlib whether the faces are real enough.
"""

from __future__ import annotations

from facscale.synthetic.actions import AUS
from facscale.synthetic.clip import Clip, Flow, render_clip
from facscale.synthetic.expressions import write_expressions
from facscale.synthetic.sheet import au_sheet, contact_sheet
from facscale.synthetic.trees import Written, write_tree

__all__ = [
    "AUS",
    "Clip",
    "Flow",
    "Written",
    "au_sheet",
    "contact_sheet",
    "render_clip",
    "write_expressions",
    "write_tree",
]
