"""Which keys of a home may vote: only those whose journal is here, and none that is barred."""

from pathlib import Path

import pytest

from node.home.config import Voter
from node.home.keyfile import create_key, create_voting_key
from node.validator import keyring as module
from node.validator.keyring import BARRED, Keyring, bar, read_barred
from vm.keys import verify
from vm.refusal import Refused

JOURNAL = b"j" * 16
OTHER = b"o" * 16
MESSAGE = b"m" * 32


def member(folder: Path) -> Voter:
    """A validator's member with its files in `folder`."""
    return Voter(
        id="hospital-1.validator",
        key=folder / "validator.key",
        next_key=folder / "next.key",
        tls_key=folder / "tls.key",
        tls_certificate=folder / "tls.crt",
    )


def keyring(folder: Path, journal: bytes = JOURNAL) -> Keyring:
    """What a node with this journal holds."""
    return Keyring(member(folder), folder, journal)


def test_a_key_votes_with_its_own_journal(tmp_path: Path) -> None:
    """The signature is that of the seat's key."""
    public = create_voting_key(tmp_path / "validator.key", JOURNAL).public

    keys = keyring(tmp_path)
    keys.check()
    sign = keys.signer(public)

    assert sign is not None
    assert verify(public, MESSAGE, sign(MESSAGE))
    assert keys.publics() == (public,)


def test_a_key_does_not_vote_with_another_journal(tmp_path: Path) -> None:
    """It does not know what the key has promised; nor does the node start like that."""
    public = create_voting_key(tmp_path / "validator.key", JOURNAL).public

    keys = keyring(tmp_path, OTHER)

    assert keys.signer(public) is None
    with pytest.raises(Refused, match="made for") as refused:
        keys.check()
    assert refused.value.code == "journal.lost"


def test_a_barred_key_never_votes_and_the_node_may_start(tmp_path: Path) -> None:
    """It goes on signing transactions, which promise nothing to other replicas."""
    public = create_voting_key(tmp_path / "validator.key", JOURNAL).public
    bar(tmp_path, public)

    for journal in (JOURNAL, OTHER):
        keys = keyring(tmp_path, journal)
        keys.check()
        assert keys.signer(public) is None
        assert keys.held(public) is not None


def test_wiping_the_list_does_not_let_a_key_vote_again(tmp_path: Path) -> None:
    """After a recovery the journal is another one, and the key was not made for it."""
    public = create_voting_key(tmp_path / "validator.key", JOURNAL).public
    bar(tmp_path, public)
    (tmp_path / BARRED).unlink()

    keys = keyring(tmp_path, OTHER)

    assert keys.signer(public) is None
    with pytest.raises(Refused):
        keys.check()


def test_bars_add_up_and_stay(tmp_path: Path) -> None:
    """No later bar lifts an earlier one."""
    bar(tmp_path, b"a" * 32)
    bar(tmp_path, b"b" * 32, b"c" * 32)

    assert read_barred(tmp_path) == {b"a" * 32, b"b" * 32, b"c" * 32}


def test_a_crash_while_barring_leaves_the_bars_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list is replaced whole."""
    bar(tmp_path, b"a" * 32)

    class Crash(BaseException):
        pass

    def crash(path: Path) -> None:
        raise Crash

    monkeypatch.setattr(module, "sync_file", crash)
    with pytest.raises(Crash):
        bar(tmp_path, b"b" * 32)

    assert read_barred(tmp_path) == {b"a" * 32}


@pytest.mark.parametrize("text", ["zz\n", "00\n", "00" * 32 + "\nx\n", "00" * 32 * 2_000])
def test_a_damaged_list_of_bars_is_refused(tmp_path: Path, text: str) -> None:
    """Read as empty it would lift every bar."""
    (tmp_path / BARRED).write_text(text)

    with pytest.raises(Refused) as refused:
        read_barred(tmp_path)

    assert refused.value.code == "key.barred"


def test_the_next_key_counts_as_soon_as_it_is_made_and_takes_the_place_of_the_first(
    tmp_path: Path,
) -> None:
    """While the node runs; promoting a key that is not the next one changes nothing."""
    first = create_voting_key(tmp_path / "validator.key", JOURNAL).public
    keys = keyring(tmp_path)
    before = keys.signer(b"n" * 32)
    following = create_voting_key(tmp_path / "next.key", JOURNAL).public

    both = keys.publics()
    keys.promote(first)
    unchanged = keys.publics()
    keys.promote(following)

    assert before is None
    assert both == unchanged == (first, following)
    assert keys.publics() == (following,)
    assert keys.signer(following) is not None
    assert keys.signer(first) is None
    assert not (tmp_path / "next.key").exists()


def test_a_key_that_was_made_for_no_journal_is_refused(tmp_path: Path) -> None:
    """It was copied in by hand: nobody knows what it has signed elsewhere."""
    create_key(tmp_path / "validator.key")

    with pytest.raises(Refused) as refused:
        keyring(tmp_path).check()

    assert refused.value.code == "key.journal"
