"""Files and folders: written whole or not at all, made, hashed, locked."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from lit_diffusion.common.errors import ConfigError


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside the target; once it is written and on the disk, rename it over the target.

    A process killed at any moment leaves the old file or the new one, never half of one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".partial")
    try:
        with unfinished.open("wb") as file:
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
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{name} is {path}, which can't be made ({error.strerror}): choose another folder"
        ) from None
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{name} is {path}, which can't be written to: choose another folder")
    return folder


@contextmanager
def locked(folder: Path, task: str) -> Iterator[None]:
    """Keep other processes out of the folder while inside.

    Raises:
        ConfigError: another process is at work there; ``task`` says what it does.
    """
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ConfigError(f"another {task} is at work in {folder}: choose another out") from None
    try:
        yield
    finally:
        lock.release()
