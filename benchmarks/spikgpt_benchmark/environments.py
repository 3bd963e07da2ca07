"""Find the interpreter of a method: that of SpikGPT, or a virtual environment, made on first use and kept."""

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
import spikgpt_benchmark
from spikgpt.errors import printable
from spikgpt.files import user_cache
from spikgpt_benchmark.methods import Method

# Requirements of the worker and of `import spikgpt`.
BASE = ("anndata", "lazy-loader", "numpy", "pandas", "scipy")
# File that marks an environment as complete, and the time limit of a command in seconds.
READY, TIMEOUT = "ready.json", 3600


class MethodUnavailable(Exception):
    """Error for a method that cannot run on this machine; the row of the method shows the message."""


def interpreter_of(method: Method) -> Path:
    """Return the interpreter of a method, and make the method's own environment if it is missing.

    Raises
    ------
    MethodUnavailable
        When a program or package is missing, or the environment cannot be made.
    """
    for program in method.programs:
        if shutil.which(program) is None:
            msg = f"not installed: there is no {program} on the path"
            raise MethodUnavailable(msg)
    if method.environment is not None:
        return _make_environment(method.environment)
    if missing := [package for package in method.packages if installed(package) is None]:
        msg = f"not installed: pip install {' '.join(missing)}"
        raise MethodUnavailable(msg)
    return Path(sys.executable)


def installed(package: str) -> str | None:
    """Return the version of a distribution in this environment, or None if it is not installed.

    The version of SpikGPT includes a hash of its sources: in a clone, they can change while the version stays.
    """
    try:
        package_version = version(package)
    except PackageNotFoundError:
        return None
    return f"{package_version}+{_hash_sources()}" if package == "spikgpt" else package_version


def python_path(method: Method, folder: Path) -> str | None:
    """Return PYTHONPATH for a method's interpreter, or None for the interpreter of SpikGPT.

    For a method with its own environment, ``folder`` gets links to SpikGPT and its benchmark, and to nothing else.
    """
    if method.environment is None:
        return None
    source = folder / "source"
    source.mkdir(exist_ok=True)
    for package in (spikgpt, spikgpt_benchmark):
        path = Path(str(package.__file__)).resolve().parent
        (source / path.name).symlink_to(path)
    return str(source)


def _hash_sources() -> str:
    """Return a hash of the sources of SpikGPT without its command line."""
    package, digest = Path(spikgpt.__file__).parent, hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        if not name.startswith("cli/"):
            digest.update(name.encode() + path.read_bytes())
    return digest.hexdigest()[:8]


def _make_environment(requirements: tuple[str, ...]) -> Path:
    """Return the interpreter of a virtual environment with these requirements; make it if it is missing."""
    torch = installed("torch")
    # Pin torch to the installed version: another version would be a download of gigabytes.
    constraints = [f"torch=={torch.partition('+')[0]}"] if torch else []
    wanted = [*BASE, *requirements]
    about = json.dumps([sorted(wanted), constraints, sysconfig.get_python_version(), sys.platform])
    folder = user_cache() / "benchmark" / hashlib.sha256(about.encode()).hexdigest()[:16]
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Only one process at a time makes the environment.
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / READY).exists():
            shutil.rmtree(folder, ignore_errors=True)
            _run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
            listed = folder / "constraints.txt"
            listed.write_text("\n".join(constraints))
            pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
            _run([*pip, "install", "--quiet", "--constraint", str(listed), *wanted])
            (folder / READY).write_text(about)
    return python


def _run(command: list[str]) -> None:
    """Run a command, and raise MethodUnavailable with its error if the command fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        msg = f"no environment: {printable(str(error))}"
        raise MethodUnavailable(msg) from None
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith("error")] or lines or ["pip failed"]
        msg = f"no environment: {printable(errors[-1])[:300]}"
        raise MethodUnavailable(msg)
