"""What a spec may not be, whoever wrote it: endless, bottomless, or a holder of secrets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import Node

from facscale.redact import redacted
from facscale.spec.errors import Origin, SpecError

PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "map", "seq")}
MAX_BYTES = 256 * 1024  # the largest of ours has 3 kB
MAX_NODES = 100_000  # an alias bomb unfolds past this long before it hurts
MAX_DEPTH = 40  # levels; the deepest of ours has 9
LONGEST_NAME = 100  # characters
SHOWN = 200  # characters of a wrong value in a message
SECRET = re.compile(r"SECRET|PASSWORD|PASSWD|TOKEN|CREDENTIAL|ACCESS_?KEY|PRIVATE_?KEY|API_?KEY", re.IGNORECASE)
SECRET_KEY = re.compile(r"(?i)(password|passwd|secret|token|credential|(access|api|private)_?key)s?$")
SECRET_VALUE = re.compile(
    r"""(?x)
      \b(AKIA|ASIA)[0-9A-Z]{16}\b                                      # AWS
    | (?i:password|passwd|secret|token|access_?key|api_?key)\s*[=:]\s*[^\s$&]  # password=..., token: ...
    | \b(ghp|gho|ghs|github_pat|glpat|hf|sk|xox[bp])[-_][0-9A-Za-z_-]{16,}  # GitHub, GitLab, Hugging Face, ...
    | -----BEGIN\ [A-Z\ ]*PRIVATE\ KEY
    | \beyJ[0-9A-Za-z_-]{10,}\.[0-9A-Za-z_-]{10,}\.                    # a JSON web token
    """
)


def _fit_to_be_a_name(text: str) -> str:
    if len(text) > LONGEST_NAME or not re.fullmatch(r"[^\W_][\w .,()+=:-]*|", text):
        raise ValueError(
            f"a name is a letter or digit, then letters, digits, blanks and _ . , ( ) + = : -, at most {LONGEST_NAME}"
        )
    return text


Name = Annotated[str, AfterValidator(_fit_to_be_a_name)]  # of jobs, rows and stages: titles, and parts of paths


def text_of(path: Path) -> str:
    """A spec's text. Raises SpecError for a file that is missing, too large, or no text."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise SpecError(f"{path}: larger than {MAX_BYTES // 1024} kB, which no spec is; is it the right file?")
        return content.decode()
    except FileNotFoundError:
        raise SpecError(f"{path}: there is no such file (you are in {Path.cwd()})") from None
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a name that no file can have
        raise SpecError(f"{path}: cannot be read: {error}") from None


def composed(text: str, origin: Origin) -> Node | None:
    """YAML's tree of a text; nothing is constructed from it. Raises SpecError."""
    level = deepest = 0
    for bracket in re.findall(r"[\[{}\]]", text):  # YAML's scanner takes seconds for what this sees at once
        level += 1 if bracket in "[{" else -1
        deepest = max(deepest, level)
    if deepest > 10 * MAX_DEPTH:
        raise too_deep(origin)
    try:
        node: Node | None = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark and not origin.line else origin.line
        raise SpecError(f"{Origin(origin.file, line)}: not valid YAML: {error.problem}") from None
    except RecursionError:
        raise too_deep(origin) from None
    except (YAMLError, ValueError) as error:  # characters that YAML does not know, a date that is none
        raise SpecError(f"{origin}: not valid YAML: {str(error).splitlines()[0]}") from None
    return node


def too_deep(origin: Origin) -> SpecError:
    """For what is nested in itself, or as if it were."""
    return SpecError(f"{origin}: nested more than {MAX_DEPTH} levels deep: is an alias nested in itself?")


def refuse_tag(node: Node, origin: Origin) -> None:
    """Raises SpecError for a value that is more than a value: !!python/object, a date, a merged mapping."""
    if str(node.tag) not in PLAIN:
        raise SpecError(f"{origin}: the tag {node.tag} is not allowed; a spec holds plain values only")


def shown(value: object) -> str:
    """A wrong value, for a message."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text):,} characters)"


def refuse_secret_variable(name: str, origin: Origin) -> None:
    """Raises SpecError for a variable that holds a secret, by its name."""
    if SECRET.search(name):
        raise SpecError(
            f"{origin}: the variable {name} holds a secret, by its name, and what a spec says is shown, logged and kept: "
            "leave it to the environment, where those who need it look for it"
        )


def refuse_secret_value(value: str, *, key: str, origin: Origin) -> None:
    """Raises SpecError for what looks like a password or a key, also in an address; it is not repeated."""
    named = value and SECRET_KEY.search(key.rpartition(".")[2])
    if named or SECRET_VALUE.search(value) or redacted(value) != value:
        raise SpecError(
            f'{origin}: "{key}" holds what looks like a secret, and what a spec says is shown, logged and kept: leave it out '
            "of the file and to the environment (MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, PGPASSWORD, AWS_…, "
            "or a whole MLFLOW_TRACKING_URI); on Kubernetes, to the Secrets that the chart's values name"
        )
