"""Rendered talking faces with known truth; nothing is downloaded, and a seed gives the same pixels again."""

from __future__ import annotations

from facscale.data.synthetic.actions import AUS
from facscale.data.synthetic.clip import Clip, Flow, render_clip
from facscale.data.synthetic.trees import Written, write_tree

__all__ = ["AUS", "Clip", "Flow", "Written", "render_clip", "write_tree"]
