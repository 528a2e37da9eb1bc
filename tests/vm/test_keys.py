"""Ed25519: which signatures count, pinned so that no change of library can fork the network.

Cases 0 to 11 are the kinds of hostile signature that ed25519-speccheck ("Taming the many EdDSAs",
Chalkias et al. 2020) found libraries to disagree on, built here from the curve itself.
"""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vm import edwards
from tests.vm.edwards import B, L, P, Point, T, add, challenge, compress, multiply, signature
from vm.keys import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, SigningKey, verify

SECRET, NONCE = 3**150 % L, 5**100 % L  # any two scalars
messages = [bytes((i,)) * 32 for i in range(64)]

Case = tuple[bytes, bytes, bytes]  # public key, message, signature
Torsion = Callable[[int], bool]  # whether the equation's part of order 8 is as wanted, given h


def forge(a_part: int, r_part: int, wanted: Torsion, *, a: int = SECRET, r: int = NONCE) -> Case:
    """A signature by A = aB + a_part T with R = rB + r_part T, over a message whose h is wanted.

    Multiplied by 8 the equation SB = R + hA always holds; without, only if r_part + h * a_part is
    a multiple of 8.
    """
    public = compress(add(multiply(a, B), multiply(a_part, T)))
    big_r = compress(add(multiply(r, B), multiply(r_part, T)))
    for message in messages:
        h = challenge(big_r, public, message)
        if wanted(r_part + h * a_part):
            return public, message, signature(big_r, (r + h * a) % L)
    raise AssertionError("one in eight messages will do")


def cancels(torsion: int) -> bool:
    """The equation holds as it stands."""
    return torsion % 8 == 0


def remains(torsion: int) -> bool:
    """The equation holds only multiplied by the cofactor 8."""
    return torsion % 8 != 0


def small_encodings() -> Iterator[bytes]:
    """Every 32 bytes that may be read as a point of small order, canonical or not."""
    for i in range(8):
        point: Point = multiply(i, T)
        for excess in (0, 1):
            if point[1] + excess * P < 2**255:
                data = compress(point, excess)
                yield data
                yield data[:31] + bytes((data[31] ^ 0x80,))  # the other sign, also for x = 0


@pytest.mark.parametrize(
    ("seed", "public", "message", "expected"),
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555"
            "fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da0"
            "85ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac1"
            "8ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ],
)
def test_signatures_equal_the_vectors_of_rfc_8032(
    seed: str, public: str, message: str, expected: str
) -> None:
    """Section 7.1, tests 1 to 3: key, signature, and its verification."""
    key = SigningKey(bytes.fromhex(seed))

    made = key.sign(bytes.fromhex(message))

    assert key.public.hex() == public
    assert made.hex() == expected
    assert verify(key.public, bytes.fromhex(message), made)


@given(seed=st.binary(min_size=32, max_size=32), message=st.binary(max_size=80), data=st.data())
def test_a_signature_is_of_one_key_over_one_message(
    seed: bytes, message: bytes, data: st.DataObject
) -> None:
    """One bit changed in key, message or signature, and it verifies no more."""
    key = SigningKey(seed)
    made = key.sign(message)
    place, bit = data.draw(st.integers(0, 63)), 1 << data.draw(st.integers(0, 7))

    def flipped(whole: bytes) -> bytes:
        i = place % len(whole)
        return whole[:i] + bytes((whole[i] ^ bit,)) + whole[i + 1 :]

    assert verify(key.public, message, made)
    assert not verify(key.public, message, flipped(made))
    assert not verify(flipped(key.public), message, made)
    assert not verify(key.public, message + b"\x00", made)
    assert not message or not verify(key.public, flipped(message), made)


@pytest.mark.parametrize("length", [0, 1, 31, 33, 63, 64, 65, 96])
def test_keys_and_signatures_have_one_length(length: int) -> None:
    """Bytes moved from the message into the signature, or a key cut short, do not verify."""
    key = SigningKey(bytes(32))
    message = b"m" * 32
    made = key.sign(message)

    if length != SIGNATURE_BYTES:
        whole = made + message
        assert not verify(key.public, whole[length:], whole[:length])
    if length != PUBLIC_KEY_BYTES:
        assert not verify((key.public * 4)[:length], message, made)


def test_a_seed_has_32_bytes_and_is_not_shown() -> None:
    """Another length is our own bug; what is printed of a key gives nothing away."""
    seed = b"secret seed of thirty-two bytes!"
    key = SigningKey(seed)

    assert seed.hex() not in repr(key) + str(vars(type(key)))
    assert "secret" not in repr(key)
    for length in (0, 31, 33):
        with pytest.raises(AssertionError):
            SigningKey(bytes(length))


def test_a_secret_is_the_keys_alone_and_of_one_context() -> None:
    """Derived again at any time, and different for each thing that it is for."""
    one, other = SigningKey(bytes(32)), SigningKey(bytes(31) + b"\1")

    assert one.secret(b"round 1") == SigningKey(bytes(32)).secret(b"round 1")
    assert len({one.secret(b"round 1"), one.secret(b"round 2"), other.secret(b"round 1")}) == 3
    assert one.public != one.secret(b"")


def test_the_curve_of_this_test_makes_honest_signatures() -> None:
    """What the hostile cases are built from gives, without hostility, a signature that counts."""
    assert multiply(L, B) == edwards.ZERO
    assert multiply(8, T) == edwards.ZERO
    assert multiply(4, T) != edwards.ZERO

    assert verify(*forge(0, 0, cancels))


def test_cases_0_10_and_11_small_order_keys_never_verify() -> None:
    """The attack: a key under which one signature fits many messages; no encoding of one counts."""
    encodings = set(small_encodings())
    assert len(encodings) >= 14

    for public in encodings:
        for big_r, s in ((public, 0), (compress(multiply(NONCE, B)), NONCE)):
            for message in messages[:16]:  # two of them in sixteen would fit a lax verifier
                assert not verify(public, message, signature(big_r, s))


def test_case_1_a_small_order_key_with_a_mixed_r_never_verifies() -> None:
    """Nor when R brings along the part of order 8 that makes the equation hold."""
    for a_part in range(8):
        for r_part in range(8):
            try:
                case = forge(a_part, r_part, cancels, a=0)
            except AssertionError:
                continue  # no message cancels an odd part against an even one
            assert not verify(*case)


def test_cases_2_8_and_9_small_order_r_never_verifies() -> None:
    """R of small order, in any encoding, is refused though the equation holds."""
    for big_r in set(small_encodings()):
        for a_part in range(8):
            public = compress(add(multiply(SECRET, B), multiply(a_part, T)))
            for message in messages[:8]:
                h = challenge(big_r, public, message)
                assert not verify(public, message, signature(big_r, h * SECRET % L))


@settings(max_examples=60)
@given(a_part=st.integers(0, 7), r_part=st.integers(0, 7), message=st.sampled_from(messages))
def test_cases_3_4_and_5_the_equation_is_not_multiplied_by_the_cofactor(
    a_part: int, r_part: int, message: bytes
) -> None:
    """Keys and R with a part of order 8 count exactly if the equation holds as it stands."""
    public = compress(add(multiply(SECRET, B), multiply(a_part, T)))
    big_r = compress(add(multiply(NONCE, B), multiply(r_part, T)))
    h = challenge(big_r, public, message)

    counted = verify(public, message, signature(big_r, (NONCE + h * SECRET) % L))

    assert counted is cancels(r_part + h * a_part)


@pytest.mark.parametrize(
    ("a_part", "r_part", "wanted", "counts"),
    [(1, 3, cancels, True), (1, 3, remains, False), (1, 0, remains, False), (0, 1, remains, False)],
    ids=["case 3", "case 4", "case 5", "R alone mixed"],
)
def test_mixed_order_cases(a_part: int, r_part: int, wanted: Torsion, counts: bool) -> None:
    """Case 3 counts, cases 4 and 5, which hold only multiplied by 8, do not."""
    assert verify(*forge(a_part, r_part, wanted)) is counts


@pytest.mark.parametrize("times", [1, 2, 7, 14], ids=["case 6", "2 L", "7 L", "case 7"])
def test_a_second_signature_cannot_be_made_from_a_first(times: int) -> None:
    """The malleability attack: S + L satisfies the same equation, and would be another id."""
    key = SigningKey(bytes(32))
    made = key.sign(b"message")
    s = int.from_bytes(made[32:], "little")

    second = signature(made[:32], s + times * L)

    assert verify(key.public, b"message", made)
    assert not verify(key.public, b"message", second)
