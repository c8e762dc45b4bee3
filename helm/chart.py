"""Generate the chart's README and one golden rendering for each value file. Both are kept in the repository.

python helm/chart.py     # run it after a change of the chart, and review the diff
"""  # noqa: INP001 - a script, no package

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import helm_python
import yaml

HERE = Path(__file__).parent
CHART = HERE / "facscale"
GOLDEN = HERE.parent / "tests" / "golden" / "helm"
VALUE_FILES = sorted(path.name for path in CHART.glob("values-*.yaml"))
RELEASE, NAMESPACE = "facscale", "research"
TABLE = ["| key | default | meaning |", "|---|---|---|"]
GENERATED = "<generated>"  # replaces random secrets in golden renderings

Doc = dict[str, Any]


def load_values(name: str) -> Doc:
    """Load a value file of the chart; none for an empty name, which leaves the defaults."""
    return yaml.safe_load((CHART / name).read_text()) if name else {}


def render(values: Doc, *, name: str = RELEASE, namespace: str = NAMESPACE) -> dict[str, str]:
    """Render the chart: text by template. Rendering changes the loaded chart, so each call loads it anew."""
    return dict(helm_python.Chart.load(str(CHART)).render(values, name=name, namespace=namespace))


def render_objects(values: Doc, **release: str) -> list[Doc]:
    """All objects of an installation, also hooks, sorted by kind and name. `release`: name and namespace of `render`."""
    texts = [text for path, text in render(values, **release).items() if not path.endswith("NOTES.txt")]
    docs = [doc for text in texts for doc in yaml.load_all(text, Loader=yaml.CSafeLoader) if doc]
    return sorted(docs, key=lambda doc: (doc["kind"], doc["metadata"]["name"]))


def render_golden(name: str) -> str:
    """Render a value file as readable YAML: sorted, without secrets, and with YAML and JSON texts parsed."""
    docs = render_objects(load_values(name))
    for doc in docs:
        if doc["kind"] == "Secret":
            doc["data"] = dict.fromkeys(doc["data"], GENERATED)
        elif doc["kind"] == "ConfigMap":
            doc["data"] = {
                key: yaml.safe_load(text) if _is_structured(key) else text for key, text in doc["data"].items()
            }
    head = f"# helm template {RELEASE} helm/facscale --namespace {NAMESPACE} -f helm/facscale/{name}\n"
    return head + yaml.dump_all(
        docs, Dumper=_BlockDumper, sort_keys=False, width=120, explicit_start=True, default_flow_style=None
    )


def _is_structured(key: str) -> bool:
    return key.endswith((".yaml", ".json"))


class _BlockDumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and repeats equal parts instead of using aliases."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Represent a string."""
        return self.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - PyYAML passes it
        """Return True: no aliases."""
        return True


_BlockDumper.add_representer(str, _BlockDumper.represent_str)


def build_readme() -> str:
    """Build the chart's README: README.head.md, then every value with its default and meaning."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    nodes = {name: _resolve(node, schema) for name, node in schema["properties"].items() if name != "global"}
    leaves = [name for name, node in nodes.items() if "properties" not in node]
    lines = [(HERE / "README.head.md").read_text().rstrip(), "", *TABLE]
    lines += [_format_row(name, values[name], nodes[name]["description"]) for name in leaves]
    for name, node in nodes.items():
        if name not in leaves:
            lines += [
                "",
                f"### `{name}`",
                "",
                node["description"],
                "",
                *TABLE,
                *_format_rows(name, node, schema, values[name]),
            ]
    return "\n".join([*lines, ""])


def _format_rows(path: str, node: Doc, schema: Doc, default: object) -> list[str]:
    """Rows of the table for a key, and for the keys below it if it is a mapping with fixed keys."""
    children = node.get("properties", {})
    if path in {"ray.groups", "serve.groups"}:
        return [_format_row(f"{path}.NAME", default, node["description"])]
    if path == "ray.groupDefaults":
        group = _resolve({"$ref": "#/definitions/group"}, schema)["properties"]
        return [
            _format_row(f"ray.groups.NAME.{key}", _get(default, key), part["description"])
            for key, part in group.items()
        ]
    if not children or set(children) <= {
        "cpu",
        "memory",
        "nodeAffinity",
        "podAffinity",
        "podAntiAffinity",
        "to",
        "ports",
    }:
        return [_format_row(path, default, node["description"])]
    return [
        row
        for key, part in children.items()
        for row in _format_rows(f"{path}.{key}", _resolve(part, schema), schema, _get(default, key))
    ]


def _format_row(path: str, default: object, meaning: str) -> str:
    text = "" if default is None else f"`{json.dumps(default)}`"
    return f"| `{path}` | {text} | {meaning} |".replace("<", "&lt;")


def _get(default: object, key: str) -> object:
    return default.get(key) if isinstance(default, dict) else None


def _resolve(node: Doc, schema: Doc) -> Doc:
    """Resolve the $ref of a node of the schema; the node's own keys, such as its description, have precedence."""
    if "$ref" not in node:
        return node
    target = schema["definitions"][re.sub("^#/definitions/", "", node["$ref"])]
    return {**target, **{key: value for key, value in node.items() if key != "$ref"}}


def main() -> None:
    """Write the README and all golden renderings."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for file in GOLDEN.glob("*.yaml"):
        file.unlink()
    for name in VALUE_FILES:
        (GOLDEN / name).write_text(render_golden(name))
    (CHART / "README.md").write_text(build_readme())


if __name__ == "__main__":
    main()
