"""Where methods run: the environment of SpikGPT, or virtual environments that are made on first use and kept."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from filelock import FileLock

import spikgpt
from spikgpt.benchmark.methods import Method
from spikgpt.errors import printable
from spikgpt.files import user_cache

# What the worker and `import spikgpt` need.
BASE = ("anndata", "lazy-loader", "numpy", "pandas", "scipy")
# The file that an environment has when it is whole, and how long making one may take, in seconds.
READY, PATIENCE = "ready.json", 3600


class Unavailable(Exception):
    """A method cannot run here; the message is its row."""


def python_of(method: Method) -> Path:
    """Return the interpreter of a method; its environment is made if it is not there yet.

    Raises
    ------
    Unavailable
        When something is missing, or the environment cannot be made.
    """
    for program in method.programs:
        if shutil.which(program) is None:
            msg = f"not installed: there is no {program} on the path"
            raise Unavailable(msg)
    if method.environment is None:
        if missing := [package for package in method.packages if installed(package) is None]:
            msg = f"not installed: pip install {' '.join(missing)}"
            raise Unavailable(msg)
        return Path(sys.executable)
    return _made(method.environment)


def installed(package: str) -> str | None:
    """Return the version of a distribution in this environment, None where it is not installed.

    That of SpikGPT tells its sources too, as a checkout changes without its version.
    """
    try:
        found = version(package)
    except PackageNotFoundError:
        return None
    return f"{found}+{_sources()}" if package == "spikgpt" else found


def python_path(method: Method, folder: Path) -> str | None:
    """Return where a method's interpreter finds this package, for PYTHONPATH; None where it does by itself.

    In another environment the package is reached through a link in ``folder``, and nothing else is.
    """
    if method.environment is None:
        return None
    source = folder / "source"
    source.mkdir(exist_ok=True)
    (source / "spikgpt").symlink_to(Path(spikgpt.__file__).resolve().parent)
    return str(source)


def _sources() -> str:
    """Return a name for the sources of SpikGPT without its benchmark, which other sources do not have."""
    package, found = Path(spikgpt.__file__).parent, hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package).as_posix()
        if not place.startswith(("benchmark/", "cli/")):
            found.update(place.encode() + path.read_bytes())
    return found.hexdigest()[:8]


def _made(requirements: tuple[str, ...]) -> Path:
    """Return the interpreter of an environment with some requirements."""
    torch = installed("torch")
    # Of this version, so that no other one comes down: a torch is gigabytes.
    constraints = [f"torch=={torch.partition('+')[0]}"] if torch else []
    wanted = [*BASE, *requirements]
    told = json.dumps([sorted(wanted), constraints, sysconfig.get_python_version(), sys.platform])
    folder = user_cache() / "benchmark" / hashlib.sha256(told.encode()).hexdigest()[:16]
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    folder.parent.mkdir(parents=True, exist_ok=True)
    # One process at a time makes it.
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / READY).exists():
            shutil.rmtree(folder, ignore_errors=True)
            _run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
            listed = folder / "constraints.txt"
            listed.write_text("\n".join(constraints))
            pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
            _run([*pip, "install", "--quiet", "--constraint", str(listed), *wanted])
            (folder / READY).write_text(told)
    return python


def _run(command: list[str]) -> None:
    """Run a command that makes a part of an environment."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        msg = f"no environment: {printable(str(error))}"
        raise Unavailable(msg) from None
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in said if line.lower().startswith("error")] or said or ["pip failed"]
        msg = f"no environment: {printable(errors[-1])[:300]}"
        raise Unavailable(msg)
