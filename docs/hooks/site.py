"""MkDocs hooks: pages that are generated, the navigation, links to files outside docs/, results, and a description of each page."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import command_pages
import method_pages
import notebooks
import result_pages
import spec_pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
COPIES = {  # pages that are files of the repository
    "explanation/security.md": "SECURITY.md",
    "project/changes.md": "CHANGELOG.md",
    "project/contributing.md": "CONTRIBUTING.md",
    "reference/chart.md": "helm/facscale/README.md",
}
PAGES = {source: page for page, source in COPIES.items()} | {"README.md": "index.md"}
# The sections with the pages that come first; a section's other pages follow by name. Only pages that exist are listed.
HOW_TO = (
    "install",
    "gpu",
    "data",
    "jobs",
    "predict",
    "operations",
    "resume",
    "failures",
    "compare",
    "export",
    "serve",
    "share",
    "speed",
)
SECTIONS = {
    "Tutorials": ("tutorials", ("first_run", "videos", "labels", "method", "sweep", "clusters")),
    "How-to": ("how-to", HOW_TO),
    "Reference": ("reference", ("commands", "job_keys", "pipeline_keys", "python", "data_sets", "events", "chart")),
    "Methods": ("methods", ("index",)),
    "Explanation": ("explanation", ("architecture", "samples", "evaluation", "synthetic", "security")),
    "Results": ("results", ("index",)),
    "Project": ("project", ("changes", "contributing", "release")),
}
LINK = re.compile(r"(?<=\]\()([^)#\s]+)(#[^)\s]*)?(?=\))")
LONGEST = 200  # characters of a description


def generate_pages() -> Iterator[tuple[str, str]]:
    """Yield path and Markdown of every page that no file under docs/ has."""
    yield "reference/commands.md", command_pages.build_page()
    yield "reference/job_keys.md", spec_pages.build_job_page(ROOT / "jobs")
    yield "reference/pipeline_keys.md", spec_pages.build_pipeline_page(ROOT / "pipelines")
    yield "methods/index.md", method_pages.build_index()
    for name in method_pages.list_own_methods():
        yield f"methods/{name}.md", method_pages.build_page(name, DOCS / "images")
    for page, source in COPIES.items():
        yield page, redirect_links((ROOT / source).read_text(), source=source, page=page)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Build the navigation."""
    config["generated"] = dict(generate_pages())
    paths = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md") if "hooks" not in path.parts}
    paths |= config["generated"].keys()
    config.nav = [{"Home": "index.md"}]
    for title, (folder, first) in SECTIONS.items():
        pages = sorted(path for path in paths if posixpath.dirname(path) == folder)
        order = [f"{folder}/{name}.md" for name in first]
        config.nav.append({title: sorted(pages, key=lambda page: order.index(page) if page in order else len(order))})
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the generated pages, and each tutorial as a notebook."""
    for path, text in config["generated"].items():
        files.append(File.generated(config, path, content=text))
    for path in sorted(DOCS.glob("tutorials/*.md")):
        name = f"tutorials/{path.stem}.ipynb"
        files.append(File.generated(config, name, content=notebooks.build_notebook(path.read_text())))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Point links to other files of the repository at their pages, and describe the page by its first sentences."""
    path = page.file.src_uri
    if path not in COPIES:
        markdown = redirect_links(markdown, source=f"docs/{path}", page=path)
    page.meta.setdefault("description", describe(markdown))
    try:
        markdown = result_pages.expand_results(markdown, page=path, docs=DOCS)
    except result_pages.InvalidResultError as error:
        raise PluginError(str(error)) from None
    if path.startswith("tutorials/"):
        markdown = (
            f"{markdown.rstrip()}\n\n[This page as a notebook]({posixpath.basename(path).removesuffix('.md')}.ipynb)\n"
        )
    if path == "reference/events.md":
        markdown = markdown.replace("<!-- gauges -->", list_gauges())
    return markdown


def list_gauges() -> str:
    """The table of Prometheus gauges."""
    from facscale.train.gauges import GAUGES

    return "\n".join(["| gauge | meaning |", "|---|---|", *(f"| `{name}` | {text} |" for name, text in GAUGES.items())])


def redirect_links(markdown: str, *, source: str, page: str) -> str:
    """Rewrite links that are relative to the file `source` of the repository as links from `page` of the site."""

    def redirect(link: re.Match[str]) -> str:
        target, fragment = link[1], link[2] or ""
        if re.match(r"[a-z]+:", target):
            return link[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        path = PAGES.get(path, path.removeprefix("docs/"))
        return posixpath.relpath(path, posixpath.dirname(page) or ".") + fragment

    return LINK.sub(redirect, markdown)


def describe(markdown: str) -> str:
    """The first sentences of a page without marks, of at most `LONGEST` characters if there is an end before."""
    for paragraph in re.split(r"\n\s*\n", markdown):
        if not (paragraph.startswith(("#", "|", "!", "<", "`", " ", "-")) or not paragraph.strip()):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(paragraph.split())).strip("> ")
            text = re.sub(r"[*`]", "", text)
            short = re.match(rf"(.{{1,{LONGEST}}}[.:])(\s|$)", text)
            return (short[1] if short else text[:LONGEST]).rstrip(":") + ("." if text.endswith(":") else "")
    return ""
