"""Kubernetes' role-based access control over rendered manifests: who may do what, and where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Subject:
    """A user, a group, or a service account with its namespace."""

    kind: str
    name: str
    namespace: str = ""


def account(name: str, namespace: str) -> Subject:
    """A service account."""
    return Subject("ServiceAccount", name, namespace)


class Rbac:
    """Roles and bindings of some manifests; all else is forbidden, as the API server has it."""

    def __init__(self, documents: Iterable[Mapping[str, Any]], *, namespace: str) -> None:
        """`namespace`: of manifests that name none."""
        self._namespace = namespace
        self._roles: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        self._bindings: list[Mapping[str, Any]] = []
        for document in documents:
            if document["kind"] in ("Role", "ClusterRole"):
                place = self._place(document) if document["kind"] == "Role" else ""
                self._roles[document["kind"], document["metadata"]["name"], place] = document.get("rules") or []
            elif document["kind"] in ("RoleBinding", "ClusterRoleBinding"):
                self._bindings.append(document)

    def may(self, who: Subject, verb: str, resource: str, *, group: str = "", namespace: str, name: str = "") -> bool:
        """Whether `who` may do `verb` to a resource ("pods", "pods/log") in a namespace."""
        return any(
            _covers(rule, verb=verb, resource=resource, group=group, name=name)
            for binding in self._bindings
            if self._reaches(binding, namespace) and self._names(binding, who)
            for rule in self._rules(binding)
        )

    def all(self) -> list[tuple[Subject, str, str, str]]:
        """(who, verb, resource, group) of everything that anybody is given."""
        return [
            (self._subject(one, binding), verb, resource, group)
            for binding in self._bindings
            for one in binding.get("subjects") or []
            for rule in self._rules(binding)
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        ]

    def _rules(self, binding: Mapping[str, Any]) -> list[dict[str, Any]]:
        role = binding["roleRef"]
        return self._roles[role["kind"], role["name"], self._place(binding) if role["kind"] == "Role" else ""]

    def _reaches(self, binding: Mapping[str, Any], namespace: str) -> bool:
        return binding["kind"] == "ClusterRoleBinding" or self._place(binding) == namespace

    def _names(self, binding: Mapping[str, Any], who: Subject) -> bool:
        return who in [self._subject(one, binding) for one in binding.get("subjects") or []]

    def _subject(self, one: Mapping[str, Any], binding: Mapping[str, Any]) -> Subject:
        inside = one.get("namespace") or self._place(binding)
        return Subject(one["kind"], one["name"], inside if one["kind"] == "ServiceAccount" else "")

    def _place(self, document: Mapping[str, Any]) -> str:
        return str(document["metadata"].get("namespace") or self._namespace)


def _covers(rule: Mapping[str, Any], *, verb: str, resource: str, group: str, name: str) -> bool:
    wanted = {"verbs": verb, "resources": resource, "apiGroups": group}
    named = rule.get("resourceNames")
    return all(value in rule.get(key, []) or "*" in rule.get(key, []) for key, value in wanted.items()) and (
        not named or name in named
    )
