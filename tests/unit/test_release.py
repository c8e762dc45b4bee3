"""What the files for readers say of a release is what the code and the lock say."""

from __future__ import annotations

import re

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
