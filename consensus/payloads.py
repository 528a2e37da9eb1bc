"""Payloads by digest, kept for as long as a certificate may name them, and those still missing."""

from collections.abc import Iterator

from consensus.message import NULL_DIGEST, payload_digest


class Payloads:
    """Payloads named by proposals above the low watermark.

    Kept until the checkpoint of its height is stable is each payload that we have prepared, or know
    to be decided: a new view may order it by its certificate alone. What is only proposed is kept
    while its view lasts. So faulty primaries, one view after another, fill no more than one view.
    """

    def __init__(self) -> None:
        self._held: dict[bytes, tuple[int, bytes]] = {NULL_DIGEST: (0, b"")}
        self._wanted: dict[bytes, tuple[int, tuple[str, ...]]] = {}
        self.bytes_held = 0

    def get(self, digest: bytes) -> bytes | None:
        """The payload, if held."""
        held = self._held.get(digest)
        return None if held is None else held[1]

    def hold(self, payload: bytes, sequence: int) -> bool:
        """Keep a payload at least until `sequence` is stable; whether it was not held before."""
        digest = payload_digest(payload)
        self._wanted.pop(digest, None)
        if digest in self._held:
            self.name(digest, sequence)
            return False
        self._held[digest] = (sequence, payload)
        self.bytes_held += len(payload)
        return True

    def name(self, digest: bytes, sequence: int) -> None:
        """Keep a held payload until `sequence` is stable: another proposal names it."""
        held = self._held.get(digest)
        if held is not None and held[0] < sequence:
            self._held[digest] = (sequence, held[1])

    def want(self, digest: bytes, sequence: int, holders: tuple[str, ...]) -> bool:
        """Note that a payload is missing and who voted for it; whether that is news."""
        if digest in self._held or digest in self._wanted:
            return False
        self._wanted[digest] = (sequence, holders)
        return True

    def wanted(self, digest: bytes) -> int | None:
        """The sequence number for which this payload is missing, or None."""
        entry = self._wanted.get(digest)
        return None if entry is None else entry[0]

    def cancel(self) -> None:
        """Ask for nothing any more: the view whose proposals named it is over."""
        self._wanted.clear()

    def keep(self, named: set[bytes]) -> None:
        """Drop every payload but those with these digests."""
        for digest in self._held.keys() - named - {NULL_DIGEST}:
            self._drop(digest)

    def missing(self) -> Iterator[tuple[bytes, tuple[str, ...]]]:
        """Every missing digest with those who voted for it."""
        for digest, (_, holders) in self._wanted.items():
            yield digest, holders

    def entries(self) -> Iterator[tuple[int, bytes]]:
        """Every held payload with the newest sequence number that names it."""
        return (held for digest, held in self._held.items() if digest != NULL_DIGEST)

    def forget(self, stable: int) -> None:
        """Drop payloads that only proposals up to the low watermark name."""
        for digest in [d for d, (sequence, _) in self._held.items() if sequence <= stable]:
            if digest != NULL_DIGEST:
                self._drop(digest)
        for digest in [d for d, (sequence, _) in self._wanted.items() if sequence <= stable]:
            del self._wanted[digest]

    def _drop(self, digest: bytes) -> None:
        self.bytes_held -= len(self._held.pop(digest)[1])
