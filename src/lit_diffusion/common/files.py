"""Files and folders: written whole or not at all, made, hashed, locked."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from filelock import FileLock, Timeout

from lit_diffusion.common.errors import ConfigError

UNFINISHED = ".unfinished_by_lit_diffusion"  # how the names of files that are being written end


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a new file beside the target; once it is written and on the disk, rename it over the target.

    A process killed at any moment leaves the old file or the new one, never half of one. The new file's
    name is its own, and a link in the target's place is replaced, not followed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{uuid4().hex[:8]}{UNFINISHED}")
    try:
        with unfinished.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write the content as JSON, whole or not at all."""
    with atomic_write(path) as file:
        file.write(json.dumps(content, indent=2).encode())


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(path: str | Path, name: str = "out") -> Path:
    """Return the folder, made if it is missing.

    Args:
        path: of the folder.
        name: the config key that names it, for the error.

    Raises:
        ConfigError: the folder can't be made, or can't be written to.
    """
    if not isinstance(path, (str, Path)) or not str(path):
        raise ConfigError(f"{name} is {path!r}: give the path of a folder")
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        links = [child.name for child in folder.iterdir() if child.is_symlink()]
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"{name} is {path}, which can't be made ({reason}): choose another folder"
        ) from None
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{name} is {path}, which can't be written to: choose another folder")
    if links:
        raise ConfigError(
            f"{name} is {path}, where {links[0]} is a link to elsewhere: choose another folder, or remove it"
        )
    return folder


@contextmanager
def locked(folder: Path, task: str) -> Iterator[None]:
    """Keep other processes out of the folder while inside; remove what one that was killed left unfinished.

    Raises:
        ConfigError: another process is at work there; ``task`` says what it does.
    """
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ConfigError(f"another {task} is at work in {folder}: choose another out") from None
    try:
        remove_unfinished(folder)
        yield
    finally:
        lock.release()


def remove_unfinished(folder: Path) -> None:
    """Remove the files that a process which was killed left unfinished."""
    for unfinished in folder.rglob(f"*{UNFINISHED}"):
        unfinished.unlink()
