"""Places: so many in all, so many of one holder, and by what an address is counted."""

import pytest

from node.wire.places import Places, is_loopback, network_of
from vm.refusal import Refused


def test_one_holder_leaves_places_to_the_others() -> None:
    """Whoever has its share is refused; the next one is not, while there are places."""
    places = Places("here.full", "seats", places_max=3, share_max=2)
    places.take("one")
    places.take("one")

    with pytest.raises(Refused, match="at most 2 seats of one at") as share:
        places.take("one")
    places.take("other")
    with pytest.raises(Refused, match="at most 3 seats at") as whole:
        places.take("another")

    assert {share.value.code, whole.value.code} == {"here.full"}


def test_who_stands_for_many_is_bound_by_the_whole_alone() -> None:
    """As a proxy does, at whose address all are."""
    places = Places("here.full", "seats", places_max=3, share_max=1)
    for _ in range(3):
        places.take("proxy", shared=False)

    with pytest.raises(Refused, match="at most 3 seats"):
        places.take("proxy", shared=False)


def test_a_place_comes_back_and_its_holder_is_forgotten() -> None:
    """Also where the block fails: what is remembered does not grow with those who came."""
    places = Places("here.full", "seats", places_max=1, share_max=1)

    def fail(holder: str) -> None:
        with places.place(holder):
            assert (places.taken, places.holders) == (1, 1)
            raise RuntimeError("broken")

    for number in range(100):
        with pytest.raises(RuntimeError, match="broken"):
            fail(f"holder {number}")
    with places.place("one"), pytest.raises(Refused):
        places.take("refused")

    assert (places.taken, places.holders) == (0, 0)


@pytest.mark.parametrize(
    ("remote", "here"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("192.0.2.1", False),
        ("fe80::1%eth0", False),
        ("", False),
    ],
)
def test_loopback_is_this_machine(remote: str, here: bool) -> None:
    """Of IPv4 and of IPv6."""
    assert is_loopback(remote) is here


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("", "unix", False),
    ],
)
def test_one_subscriber_is_one_address(one: str, other: str, together: bool) -> None:
    """Of IPv6 everybody has 2^64 addresses: they count as one."""
    assert (network_of(one) == network_of(other)) is together
