"""HTML pages from the templates beside this module. A page holds its styles, images and scripts, and opens without a network."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

if TYPE_CHECKING:  # not every page has figures, and matplotlib takes a second to import
    from matplotlib.figure import Figure

TEMPLATES = Environment(
    loader=PackageLoader("facscale.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render_page(template: str, **values: Any) -> str:
    """Fill a template, such as "card.html", with values. They are escaped, unless the template marks them as `safe`.

    Raises jinja2.UndefinedError where the template uses a value that is not given.
    """
    return TEMPLATES.get_template(template).render(values)


def encode_png(figure: Figure) -> str:
    """A figure as a data URL, for the `src` of an image."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120, bbox_inches="tight")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
