"""Draw the pictures of the documentation as SVG: `python docs/hooks/drawing.py` writes docs/images/*.svg.

A picture is text. Each line is a box, an arrow or a frame:

    encoder @ 2 1 | encoder | ResNet-34      box `encoder` in column 2, row 1, with a title and further lines
    clip -> encoder : 9 frames               arrow, with a label; `..>` is dashed
    [Kubernetes] head gpu                    frame around boxes

Colours suit a light and a dark page.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import NamedTuple

IMAGES = Path(__file__).parents[1] / "images"
SOURCES = Path(__file__).parent / "pictures"
COLUMN, ROW, WIDTH, LINE, PAD = 212, 112, 162, 17, 14  # pixels
LIGHT, EDGE, INK, LINES = "#eaf0fd", "#5b7bb4", "#1a2233", "#8090ab"
STYLE = f"""<style>
text {{ font: 13px system-ui, sans-serif; fill: {INK}; text-anchor: middle }}
.title {{ font-weight: 600 }} .label, .frame-title {{ fill: {LINES}; font-size: 12px }} .frame-title {{ text-anchor: start }}
.box {{ fill: {LIGHT}; stroke: {EDGE}; stroke-width: 1.2 }} .frame {{ fill: none; stroke: {LINES}; stroke-dasharray: 2 3 }}
.arrow {{ fill: none; stroke: {LINES}; stroke-width: 1.6 }} .dashed {{ stroke-dasharray: 5 4 }}
</style>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0 8 4 0 8z" fill="{LINES}"/></marker></defs>"""
BOX = re.compile(r"(\w+) @ ([\d.]+) ([\d.]+) \| (.+)")
ARROW = re.compile(r"(\w+) (->|\.\.>) (\w+)(?: : (.+))?")
FRAME = re.compile(r"\[(.+)\] (.+)")


class Box(NamedTuple):
    """A box around its centre, in pixels."""

    x: float
    y: float
    lines: tuple[str, ...]

    @property
    def height(self) -> float:
        """It holds all lines."""
        return LINE * len(self.lines) + PAD

    def clip(self, x: float, y: float) -> tuple[float, float]:
        """The point of the border towards (x, y)."""
        dx, dy = x - self.x, y - self.y
        scale = min(
            (WIDTH / 2 + 2) / abs(dx) if dx else float("inf"), (self.height / 2 + 2) / abs(dy) if dy else float("inf")
        )
        return self.x + dx * scale, self.y + dy * scale


def draw(text: str, *, title: str) -> str:
    """The SVG of a picture. Raises ValueError for a line that is none of the three kinds."""
    boxes: dict[str, Box] = {}
    arrows, frames = [], []
    for line in filter(str.strip, text.splitlines()):
        if match := BOX.fullmatch(line.strip()):
            lines = tuple(part.strip() for part in match[4].split("|"))
            boxes[match[1]] = Box(float(match[2]) * COLUMN + COLUMN / 2, float(match[3]) * ROW + ROW / 2, lines)
        elif match := ARROW.fullmatch(line.strip()):
            arrows.append(match.groups())
        elif match := FRAME.fullmatch(line.strip()):
            frames.append((match[1], match[2].split()))
        else:
            raise ValueError(f"neither box, arrow nor frame: {line!r}")
    width = max(box.x for box in boxes.values()) + COLUMN / 2
    height = max(box.y + box.height / 2 for box in boxes.values()) + 26
    parts = [draw_frame(name, [boxes[member] for member in members]) for name, members in frames]
    parts += [
        draw_arrow(boxes[start], boxes[end], label or "", is_dashed=kind != "->") for start, kind, end, label in arrows
    ]
    parts += [draw_box(box) for box in boxes.values()]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img">'
    return "\n".join([head, f"<title>{escape(title)}</title>", STYLE, *parts, "</svg>\n"])


def draw_box(box: Box) -> str:
    """A rounded box with its lines, the first one bold."""
    top = box.y - box.height / 2
    shape = f'<rect class="box" x="{box.x - WIDTH / 2:g}" y="{top:g}" width="{WIDTH}" height="{box.height:g}" rx="7"/>'
    lines = [
        f'<text class="{"" if number else "title"}" x="{box.x:g}" y="{top + PAD / 2 + LINE * (number + 0.75):g}">{escape(line)}</text>'
        for number, line in enumerate(box.lines)
    ]
    return "".join([shape, *lines])


def draw_arrow(start: Box, end: Box, label: str, *, is_dashed: bool) -> str:
    """A straight arrow from border to border, with its label above the middle, or beside it if the arrow is upright."""
    (x1, y1), (x2, y2) = start.clip(end.x, end.y), end.clip(start.x, start.y)
    kind = "arrow dashed" if is_dashed else "arrow"
    line = f'<path class="{kind}" d="M{x1:.0f} {y1:.0f} {x2:.0f} {y2:.0f}" marker-end="url(#tip)"/>'
    if not label:
        return line
    is_upright = abs(x2 - x1) < abs(y2 - y1)
    x, y, anchor = (x1 + x2) / 2, (y1 + y2) / 2, "start" if is_upright else "middle"
    place = f'x="{x + 8 * is_upright:.0f}" y="{y + 4 if is_upright else y - 6:.0f}" style="text-anchor: {anchor}"'
    return f'{line}<text class="label" {place}>{escape(label)}</text>'


def draw_frame(name: str, members: list[Box]) -> str:
    """A dotted frame around boxes, with its name at the top."""
    left = min(box.x for box in members) - WIDTH / 2 - 12
    right = max(box.x for box in members) + WIDTH / 2 + 12
    top = min(box.y - box.height / 2 for box in members) - 22
    bottom = max(box.y + box.height / 2 for box in members) + 12
    shape = f'<rect class="frame" x="{left:g}" y="{top:g}" width="{right - left:g}" height="{bottom - top:g}" rx="9"/>'
    return f'{shape}<text class="frame-title" x="{left + 8:g}" y="{top + 15:g}">{escape(name)}</text>'


def draw_file(path: Path) -> str:
    """The SVG of a file of pictures; its first line is the title."""
    title, _, text = path.read_text().partition("\n")
    return draw(text, title=title.lstrip("# "))


if __name__ == "__main__":
    for source in sorted(SOURCES.glob("*.txt")):
        (IMAGES / f"{source.stem}.svg").write_text(draw_file(source))
