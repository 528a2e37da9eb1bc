"""Arithmetic on edwards25519 (RFC 8032, section 5.1), slow and plain, to build hostile signatures.

Points are affine pairs (x, y). The code under test never uses this: it must judge what this makes.
"""

from functools import cache
from hashlib import sha512
from typing import TypeAlias

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493  # order of the base point's subgroup
D = -121665 * pow(121666, -1, P) % P

Point: TypeAlias = tuple[int, int]

ZERO: Point = (0, 1)


def recover_x(y: int, sign: int) -> int | None:
    """The x of a point with this y and sign bit, or None if y is on no point."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    if x * x % P != square:
        return None
    return x if x & 1 == sign else -x % P


def add(one: Point, other: Point) -> Point:
    """The sum of two points."""
    (x, y), (u, v) = one, other
    product = D * x * u * y * v % P
    return (
        (x * v + u * y) * pow(1 + product, -1, P) % P,
        (y * v + x * u) * pow(1 - product, -1, P) % P,
    )


@cache
def multiply(scalar: int, point: Point) -> Point:
    """`point` added to itself `scalar` times."""
    total = ZERO
    while scalar:
        if scalar & 1:
            total = add(total, point)
        point, scalar = add(point, point), scalar >> 1
    return total


def compress(point: Point, excess: int = 0) -> bytes:
    """The 32 bytes of a point; with `excess` the same y written `excess` times P too large."""
    x, y = point
    return (y + excess * P | (x & 1) << 255).to_bytes(32, "little")


def base_point() -> Point:
    """The point that RFC 8032 calls B."""
    y = 4 * pow(5, -1, P) % P
    x = recover_x(y, 0)
    assert x is not None
    return x, y


def torsion_point() -> Point:
    """A point of order 8: what is left of any curve point once its part of order L is removed."""
    for y in range(2, 100):
        x = recover_x(y, 0)
        if x is not None:
            point = multiply(L, (x, y))
            if multiply(4, point) != ZERO:
                return point
    raise AssertionError("a fourth of all points have a part of order 8")


B = base_point()
T = torsion_point()


def challenge(r: bytes, public: bytes, message: bytes) -> int:
    """The scalar h = SHA-512(R || A || M) mod L."""
    return int.from_bytes(sha512(r + public + message).digest(), "little") % L


def signature(r: bytes, s: int) -> bytes:
    """R || S."""
    return r + s.to_bytes(32, "little")
