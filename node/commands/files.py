"""Files that commands read and write: bounded, and never over an existing one."""

from pathlib import Path

from vm.refusal import Refused

FILE_BYTES_MAX = 4 * 1024 * 1024  # a task of 256 columns takes about 100 KiB of JSON


def read_file(path: Path, bytes_max: int = FILE_BYTES_MAX) -> bytes:
    """The content of `path`; raises `Refused("file.unreadable" | "file.too_large")`."""
    try:
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
    except OSError as error:
        raise Refused(
            "file.unreadable", f"{path}: expected a readable file, found: {error.strerror}"
        ) from error
    if len(data) > bytes_max:
        raise Refused("file.too_large", f"{path}: expected at most {bytes_max} bytes, found more")
    return data


def check_absent(path: Path) -> None:
    """Raise `Refused("file.exists")` now rather than after a long fetch."""
    if path.exists():
        raise _exists(path)


def write_new(path: Path, data: bytes) -> None:
    """Write a file that must not exist yet; raises `Refused("file.exists" | "file.unwritable")`."""
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise Refused(
            "file.unwritable", f"{path}: expected to write a new file, found: {error.strerror}"
        ) from error


def _exists(path: Path) -> Refused:
    return Refused("file.exists", f"{path}: expected no file, found one: name another")
