"""How a client says who it is: a member's signing key, and its TLS key where there is one."""

import ssl
from dataclasses import dataclass

from node.home.config import Identity, Signer, Tls
from node.home.keyfile import read_key
from node.wire.tls import authority_context, named_context
from vm.keys import SigningKey


@dataclass(frozen=True, slots=True)
class Credentials:
    """A member that reads. Over https:// `tls` says whom to trust, and may say who it is."""

    member: str
    key: SigningKey
    tls: ssl.SSLContext | None = None


def credentials_of(member: Identity | Signer, tls: Tls) -> Credentials:
    """What a home's member shows; raises `Refused("key.*" | "tls.*")`.

    Whoever has no TLS key, as the admin of an organisation that was just admitted, signs.
    """
    context = None
    if isinstance(member, Identity) and member.tls_key.exists():
        context = named_context(tls.files(member))
    elif tls.authority.exists():
        context = authority_context(tls.authority)
    return Credentials(member.id, read_key(member.key), context)
