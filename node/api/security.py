"""How a reader may say who it is, as `/openapi.json` tells it: the one place to extend."""

from typing import Any

from node.api.problem import TYPE_PATH
from node.api.resource import ACCESS_LOG_PATH, LINEAGE_PATH, RESOURCES, TOKENS_PATH
from node.api.transactions import TRANSACTIONS
from vm.access import RESTRICTED

SCHEMES: dict[str, Any] = {
    "mutualTLS": {
        "type": "mutualTLS",
        "description": "A client certificate whose key the chain has for an enrolled member",
    },
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "A short-lived token that the node minted for an identified reader",
    },
    "signature": {
        "type": "apiKey",
        "in": "header",
        "name": "Signature",
        "description": "RFC 9421, Ed25519, by a member's enrolled key; with Signature-Input, and "
        "with Concilium-Server where the node speaks TLS",
    },
}
# To these nobody need be identified, on any network.
OPEN = ("/livez", "/readyz", "/openapi.json", "/docs", TYPE_PATH.rstrip("/"))  # and below them
# What is shown here is restricted whatever was asked for: it needs a reader on any network.
KNOWN = {ACCESS_LOG_PATH, LINEAGE_PATH} | {
    path
    for resource in RESOURCES
    if resource.record.KIND in RESTRICTED
    for path in (resource.path, resource.collection)
}


def is_open(method: str, path: str) -> bool:
    """What needs no reader: how a node is, what its answers mean, and signed transactions.

    A transaction says itself who sends it, and the mempool has a quota for each sender.
    """
    if (method.upper(), path) == ("POST", TRANSACTIONS):
        return True
    return any(f"{path}/".startswith(f"{open_path}/") for open_path in OPEN)


def requirements(method: str, path: str, public: bool) -> list[dict[str, list[str]]]:
    """What the operation at a path asks for: one of these; {} is nobody in particular."""
    if is_open(method, path):
        return [{}]
    named: list[dict[str, list[str]]] = [{name: []} for name in SCHEMES]
    if path == TOKENS_PATH:  # a token mints none
        return [item for item in named if "token" not in item]
    return [{}, *named] if public and path not in KNOWN else named
