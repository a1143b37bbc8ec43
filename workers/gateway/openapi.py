"""The OpenAPI document, with what the framework does not find by itself."""

from __future__ import annotations

from typing import Any, Final

from workers.gateway.access import EVERYBODY, RULES
from workers.gateway.problems import Problem, documented
from workers.gateway.schemas import TaskIn

PLACE: Final = "#/components/schemas/{model}"
SCHEME: Final = "bearer"
ANY: Final = (400, 421, 503)  # any request may meet these
WITH_TOKEN: Final = (401, 403, 429)
HEADERS: Final = {
    "401": ("WWW-Authenticate", "How to authenticate (RFC 6750)."),
    "429": ("Retry-After", "Seconds to wait."),
    "503": ("Retry-After", "Seconds to wait."),
}


def complete(document: dict[str, Any]) -> None:
    """Add schemas, the security scheme, and to every operation its roles and its problems."""
    components = document["components"]
    components["schemas"] |= {
        model.__name__: model.model_json_schema(ref_template=PLACE) for model in (Problem, TaskIn)
    }
    components["securitySchemes"] = {
        SCHEME: {
            "type": "http",
            "scheme": "bearer",
            "description": "Made with `clearlane tokens create`.",
        }
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete(operation, RULES[method.upper(), path])


def _complete(operation: dict[str, Any], roles: frozenset[Any]) -> None:
    closed = roles is not EVERYBODY
    operation["security"] = [{SCHEME: []}] if closed else []
    who = ", ".join(sorted(roles)) if closed else "everybody, without a token"
    operation["description"] += f"\n\nFor: {who}."
    statuses = (*ANY, *WITH_TOKEN) if closed else ANY
    for status, response in documented(*statuses).items():
        operation["responses"].setdefault(str(status), response)
    for status, (name, text) in HEADERS.items():
        if status in operation["responses"]:
            header = {name: {"description": text, "schema": {"type": "string"}}}
            operation["responses"][status]["headers"] = header
