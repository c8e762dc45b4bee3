"""What the files for readers say of a release is what the code and the lock say."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml

from conftest import ROOT
from facscale import __version__
from lock import PROJECT, read_pins


def test_the_citation_is_of_this_version_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]


def test_the_chart_has_this_version():
    chart = yaml.safe_load((ROOT / "helm" / "facscale" / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def test_templates_and_hooks_are_read():
    for path in (*(ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"), ROOT / ".pre-commit-config.yaml"):
        assert yaml.safe_load(path.read_text()), path
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    targets = (ROOT / "Makefile").read_text().replace("$(BIN)", ".venv/bin")
    assert all(" ".join(hook["entry"].split()[:1]) in targets for hook in hooks)


def test_the_papers_that_are_cited_are_those_of_the_published_tables():
    references = yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]
    papers = tomllib.loads((ROOT / "platform/facscale/report/published/index.toml").read_text())["papers"]
    titles = {re.search('"(.+)"', paper["citation"])[1].casefold() for paper in papers.values()}
    assert {reference["title"].casefold() for reference in references} == titles


def test_the_changes_begin_with_this_version():
    (first, *_) = re.findall(r"^## (\S+),", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert first == __version__


@pytest.mark.parametrize("name", ["Makefile", "docs/how-to/install.md", "CONTRIBUTING.md"])
def test_the_build_of_torch_in_an_example_is_of_the_locked_version(name):
    versions = set(re.findall(r"TORCH=([\d.]+)\+cpu", (ROOT / name).read_text()))
    assert versions == {read_pins()["torch"]}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "helm/facscale/README.md"])
def test_links_of_pages_outside_the_site_lead_somewhere(name):  # `make docs` checks those of the site
    page = ROOT / name
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_pythons_that_are_named_are_those_that_make_takes():
    named = re.findall(r"Python :: 3\.(\d+)", " ".join(PROJECT["classifiers"]))
    first, last = re.search(r"\(3, (\d+)\) <= .* <= \(3, (\d+)\)", (ROOT / "Makefile").read_text()).groups()
    assert named == [str(minor) for minor in range(int(first), int(last) + 1)]
    assert PROJECT["requires-python"] == f">=3.{first}"
