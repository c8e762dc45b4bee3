"""What is made from the chart, and kept beside it: its README, and one golden rendering a value file.

python helm/chart.py     # writes them anew, after a change of the chart: review them as a diff
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
GENERATED = "<generated>"  # where a rendering has a secret by chance

Doc = dict[str, Any]


def values_of(name: str) -> Doc:
    """A value file beside the chart's own; an empty name is the chart's own alone."""
    return yaml.safe_load((CHART / name).read_text()) if name else {}


def render(values: Doc, *, name: str = RELEASE, namespace: str = NAMESPACE) -> dict[str, str]:
    """Text by template. A handle is spoilt by its first rendering, so each has its own."""
    return dict(helm_python.Chart.load(str(CHART)).render(values, name=name, namespace=namespace))


def objects(values: Doc, **where: str) -> list[Doc]:
    """Everything that an installation makes, hooks too, by kind and name."""
    texts = [text for path, text in render(values, **where).items() if not path.endswith("NOTES.txt")]
    docs = [doc for text in texts for doc in yaml.load_all(text, Loader=yaml.CSafeLoader) if doc]
    return sorted(docs, key=lambda doc: (doc["kind"], doc["metadata"]["name"]))


def golden(name: str) -> str:
    """The rendering of a value file, to be read by people: sorted, secrets left out, YAML and JSON in texts laid open."""
    docs = objects(values_of(name))
    for doc in docs:
        if doc["kind"] == "Secret":
            doc["data"] = dict.fromkeys(doc["data"], GENERATED)
        elif doc["kind"] == "ConfigMap":
            doc["data"] = {key: yaml.safe_load(text) if _is_tree(key) else text for key, text in doc["data"].items()}
    head = f"# helm template {RELEASE} helm/facscale --namespace {NAMESPACE} -f helm/facscale/{name}\n"
    return head + yaml.dump_all(
        docs, Dumper=_Blocks, sort_keys=False, width=120, explicit_start=True, default_flow_style=None
    )


def _is_tree(key: str) -> bool:
    return key.endswith((".yaml", ".json"))


class _Blocks(yaml.SafeDumper):
    """Texts of several lines as such."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Of one string."""
        return self.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - PyYAML's
        """What stands twice is written twice."""
        return True


_Blocks.add_representer(str, _Blocks.represent_str)


def readme() -> str:
    """The chart's README: README.head.md, then every value with its default and meaning."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    nodes = {name: _resolved(node, schema) for name, node in schema["properties"].items() if name != "global"}
    single = [name for name, node in nodes.items() if "properties" not in node]
    lines = [(HERE / "README.head.md").read_text().rstrip(), "", *TABLE]
    lines += [_row(name, values[name], nodes[name]["description"]) for name in single]
    for name, node in nodes.items():
        if name not in single:
            lines += [
                "",
                f"### `{name}`",
                "",
                node["description"],
                "",
                *TABLE,
                *_rows(name, node, schema, values[name]),
            ]
    return "\n".join([*lines, ""])


def _rows(path: str, node: Doc, schema: Doc, default: object) -> list[str]:
    """Rows of one key, and of those below it where it is a mapping with fixed keys."""
    below = node.get("properties", {})
    if path == "ray.groups":
        return [_row("ray.groups.NAME", default, node["description"])]
    if path == "ray.groupDefaults":
        group = _resolved({"$ref": "#/definitions/group"}, schema)["properties"]
        return [_row(f"ray.groups.NAME.{key}", _of(default, key), part["description"]) for key, part in group.items()]
    if not below or set(below) <= {"cpu", "memory", "nodeAffinity", "podAffinity", "podAntiAffinity", "to", "ports"}:
        return [_row(path, default, node["description"])]
    return [
        row
        for key, part in below.items()
        for row in _rows(f"{path}.{key}", _resolved(part, schema), schema, _of(default, key))
    ]


def _row(path: str, default: object, meaning: str) -> str:
    shown = "" if default is None else f"`{json.dumps(default)}`"
    return f"| `{path}` | {shown} | {meaning} |".replace("<", "&lt;")


def _of(default: object, key: str) -> object:
    return default.get(key) if isinstance(default, dict) else None


def _resolved(node: Doc, schema: Doc) -> Doc:
    """A node of the schema with what it refers to; its own description counts."""
    if "$ref" not in node:
        return node
    target = schema["definitions"][re.sub("^#/definitions/", "", node["$ref"])]
    return {**target, **{key: value for key, value in node.items() if key != "$ref"}}


def main() -> None:
    """Write everything anew."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for old in GOLDEN.glob("*.yaml"):
        old.unlink()
    for name in VALUE_FILES:
        (GOLDEN / name).write_text(golden(name))
    (CHART / "README.md").write_text(readme())


if __name__ == "__main__":
    main()
