"""Limits on untrusted spec files: size, nesting depth, YAML tags and embedded secrets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import Node

from facscale.redact import redact
from facscale.spec.errors import SourceLocation, SpecError

PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "map", "seq")}
MAX_BYTES = 256 * 1024  # our largest spec has 3 kB
MAX_NODES = 100_000  # an alias bomb exceeds this long before it does harm
MAX_DEPTH = 40  # levels; our deepest spec has 9
MAX_NAME = 100  # characters
MAX_SHOWN = 200  # characters of a wrong value in a message
SECRET = re.compile(r"SECRET|PASSWORD|PASSWD|TOKEN|CREDENTIAL|ACCESS_?KEY|PRIVATE_?KEY|API_?KEY", re.IGNORECASE)
SECRET_KEY = re.compile(r"(?i)(password|passwd|secret|token|credential|(access|api|private)_?key)s?$")
SECRET_VALUE = re.compile(
    r"""(?x)
      \b(AKIA|ASIA)[0-9A-Z]{16}\b                                      # AWS
    | (?i:password|passwd|secret|token|access_?key|api_?key)\s*[=:]\s*[^\s$&]  # password=..., token: ...
    | \b(ghp|gho|ghs|github_pat|glpat|hf|sk|xox[bp])[-_][0-9A-Za-z_-]{16,}  # GitHub, GitLab, Hugging Face, ...
    | -----BEGIN\ [A-Z\ ]*PRIVATE\ KEY
    | (?<![0-9A-Za-z_-])eyJ[0-9A-Za-z_-]{10,}\.[0-9A-Za-z_-]{10,}\.                    # a JSON web token
    """
)


def _check_name(text: str) -> str:
    if len(text) > MAX_NAME or not re.fullmatch(r"[^\W_][\w .,()+=:-]*|", text):
        raise ValueError(
            "a name must begin with a letter or digit and then use only letters, digits, spaces and _ . , ( ) + = : -, "
            f"at most {MAX_NAME} characters"
        )
    return text


Name = Annotated[str, AfterValidator(_check_name)]  # of jobs, rows and stages: used in titles and as parts of paths


def read_text(path: Path) -> str:
    """Read a spec file. Raises SpecError if it is missing, too large or not UTF-8 text."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise SpecError(
                f"{path}: larger than {MAX_BYTES // 1024} kB, which is the limit for a spec; is it the right file?"
            )
        return content.decode()
    except FileNotFoundError:
        raise SpecError(f"{path}: there is no such file (you are in {Path.cwd()})") from None
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a name that no file can have
        raise SpecError(f"{path}: cannot be read: {error}") from None


def parse_yaml_tree(text: str, location: SourceLocation) -> Node | None:
    """Parse YAML to a tree of nodes, of which nothing is constructed. Raises SpecError."""
    depth = max_depth = 0
    for bracket in re.findall(r"[\[{}\]]", text):  # YAML's scanner takes seconds to find such nesting
        depth += 1 if bracket in "[{" else -1
        max_depth = max(max_depth, depth)
    if max_depth > 10 * MAX_DEPTH:
        raise make_depth_error(location)
    try:
        node: Node | None = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark and not location.line else location.line
        raise SpecError(f"{SourceLocation(location.file, line)}: not valid YAML: {error.problem}") from None
    except RecursionError:
        raise make_depth_error(location) from None
    except (YAMLError, ValueError) as error:  # characters that YAML does not allow, or an impossible date
        raise SpecError(f"{location}: not valid YAML: {str(error).splitlines()[0]}") from None
    return node


def make_depth_error(location: SourceLocation) -> SpecError:
    """The error for nesting beyond MAX_DEPTH."""
    return SpecError(f"{location}: nested more than {MAX_DEPTH} levels deep: is an alias nested in itself?")


def refuse_tag(node: Node, location: SourceLocation) -> None:
    """Raise SpecError for any tag but those of plain values: !!python/object, a date, a merged mapping."""
    if str(node.tag) not in PLAIN_TAGS:
        raise SpecError(f"{location}: the tag {node.tag} is not allowed; a spec holds plain values only")


def truncate_repr(value: object) -> str:
    """A wrong value for a message, at most MAX_SHOWN characters of it."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(text):,} characters)"


def refuse_secret_variable(name: str, location: SourceLocation) -> None:
    """Raise SpecError for an environment variable that holds a secret, to judge by its name."""
    if SECRET.search(name):
        raise SpecError(
            f"{location}: the variable {name} holds a secret, judging by its name. Specs are printed, logged and stored, "
            "so remove it: programs that need the secret read it from the environment themselves"
        )


def refuse_secret_value(value: str, *, key: str, location: SourceLocation) -> None:
    """Raise SpecError for what looks like a password or key, also within a URL. The message does not repeat it."""
    has_secret_name = value and SECRET_KEY.search(key.rpartition(".")[2])
    if has_secret_name or SECRET_VALUE.search(value) or redact(value) != value:
        raise SpecError(
            f'{location}: "{key}" holds what looks like a secret. Specs are printed, logged and stored, so remove it from '
            "the file and set it in the environment (MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, PGPASSWORD, "
            "AWS_…, or a complete MLFLOW_TRACKING_URI); on Kubernetes, in the Secrets that the chart's values name"
        )
