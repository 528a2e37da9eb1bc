"""How a reader may say who it is, as `/openapi.json` tells it: the one place to extend."""

from typing import Any

from node.api.problem import TYPE_PATH

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
        "description": "RFC 9421, Ed25519, by a member's enrolled key; with Signature-Input",
    },
}
# To these nobody need be identified, on any network.
OPEN = ("/livez", "/readyz", "/openapi.json", "/docs", TYPE_PATH.rstrip("/"))


def requirements(path: str) -> list[dict[str, list[str]]]:
    """What the operation at a path asks for: one of these; {} is nobody in particular."""
    if path.startswith(OPEN):
        return [{}]
    named: list[dict[str, list[str]]] = [{name: []} for name in SCHEMES]
    return [{}, *named]
