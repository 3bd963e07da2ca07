"""Compare labels between environments: newest versions, lowest supported versions, and pinned versions.

``make matrix`` creates the environments with uv and runs :func:`check` in each environment. Torch comes from the index
of CPU builds, or else from local files. Without torch, an environment only annotates and shares.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
REFERENCE_CELLS = ROOT / "tests" / "data" / "pancreas_baron_human1.h5ad"
QUERY = ROOT / "tests" / "data" / "pancreas_baron_human2_human4.h5ad"
SHOWN = ("numpy", "pandas", "anndata", "zarr", "h5py", "onnxruntime", "torch")
STEPS = ("annotate", "train", "export", "hub")
NOT_RUN = "not run, no torch"


class Environment(NamedTuple):
    """An environment: its Python version, the options of uv, and the requested torch."""

    name: str
    python: str
    options: tuple[str, ...]
    torch: str


ENVIRONMENTS = (
    Environment("newest", "3.13", (), "torch"),
    Environment("newest-3.11", "3.11", (), "torch==2.13.0"),
    Environment("lowest", "3.11", ("--resolution", "lowest-direct"), "torch==2.13.0"),
    Environment("constraints", "3.11", ("--constraint", str(ROOT / "constraints.txt")), "torch==2.13.0"),
)


def digest(labels: Any) -> str:
    """Return a short hash of the labels in order."""
    return hashlib.sha256("\n".join(map(str, labels)).encode()).hexdigest()[:12]


def check() -> dict[str, Any]:
    """Annotate, train, export and share in this environment; return versions and the result of each step."""
    # huggingface_hub reads these variables on import.
    os.environ["HF_HUB_DISABLE_XET"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_HOME"] = os.environ["SPIKGPT_CACHE"] = str(Path(folder, "cache"))
        results = {"versions": {name: _version(name) for name in SHOWN} | {"python": sys.version.split()[0]}}
        return results | _steps(Path(folder), [None, "onnx", *(["torch"] if find_spec("torch") else [])])


def _steps(folder: Path, engines: list[Any]) -> dict[str, Any]:
    """Run each step and return the results; labels by the shipped reference must be equal for all engines."""
    import anndata

    from spikgpt import SpikGPT
    from tests.hub_server import LoopbackHub

    shared = SpikGPT.from_pretrained("pancreas")
    annotated = set()
    for engine in engines:
        table, out = folder / f"{engine}.csv", folder / f"{engine}.h5ad"
        command = [sys.executable, "-P", "-c", "from spikgpt.cli.main import main; main()", "annotate", str(QUERY)]
        command += ["--model", "pancreas", "--table", str(table), "--out", str(out)]
        subprocess.run([*command, *(["--engine", engine] if engine else [])], check=True, capture_output=True)
        written = anndata.read_h5ad(out)
        annotated.add(digest(written.obs["spikgpt_label"]))
        model = SpikGPT.from_pretrained("pancreas", engine=engine or "auto")
        annotated.add(digest(model.annotate(anndata.read_h5ad(QUERY)).labels))
    results = {"annotate": sorted(annotated), "train": NOT_RUN, "export": NOT_RUN}
    if "torch" in engines:
        cells = anndata.read_h5ad(REFERENCE_CELLS)
        shared = SpikGPT.train(cells[::2].copy(), "cell_type", name="mine", seed=7)
        trained = shared.annotate(QUERY).labels
        results["train"] = f"{(trained == anndata.read_h5ad(QUERY).obs['cell_type'].to_numpy()).mean():.3f}"
        parity = shared.export(folder / "mine")
        shared = SpikGPT.from_pretrained(folder / "mine", engine="onnx")
        same = bool((shared.annotate(QUERY).labels == trained).all())
        results["export"] = "same" if same and parity["onnx/model.onnx"].passed else "differs"
    expected = shared.annotate(QUERY).labels
    with LoopbackHub() as hub:
        shared.push_to_hub("islets/shared", endpoint=hub.endpoint, tag="v1")
        pulled = SpikGPT.from_pretrained("islets/shared@v1", endpoint=hub.endpoint, cache_dir=folder / "hub")
        same = bool((pulled.annotate(QUERY).labels == expected).all())
    return results | {"hub": "same" if same else "differs"}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"


def interpreter(wanted: str) -> str | None:
    """Return an interpreter of a version such as 3.13 from PATH or pyenv, or None."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for path in (f"python{wanted}", *map(str, sorted(pyenv.glob(f"versions/{wanted}.*/bin/python")))):
        # A shim of pyenv exists also for versions that are not selected, and fails then.
        if shutil.which(path) and not subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode:
            return path
    return None


def make(environment: Environment, base: str, folder: Path, index: str) -> Path:
    """Create an environment from a base interpreter; return the interpreter of the environment."""
    python = folder / "bin" / "python"
    _uv("venv", "--quiet", "--clear", "--seed", "--python", base, str(folder))
    ways = [["--no-deps", "--index-url", index]] if index else []
    # Without an index of CPU builds, torch comes only from local files in PIP_FIND_LINKS, to avoid CUDA builds.
    ways.append(["--no-deps", "--no-index"])
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-compile", "--retries", "1", "--timeout", "15"]
    torch = any(
        subprocess.run([*pip, *way, environment.torch], capture_output=True, check=False).returncode == 0
        for way in ways
    )
    extras = "cpu,train,parquet" if torch else "cpu,parquet"
    kept = folder / "torch.txt"
    # Keep the installed release of torch, even if uv would choose another release.
    kept.write_text(f"torch=={_installed_torch(python).partition('+')[0]}\n" if torch else "")
    options = [*environment.options, "--constraint", str(kept)]
    _uv("pip", "install", "--quiet", "--python", str(python), *options, f"{ROOT}[{extras}]")
    return python


def _installed_torch(python: Path) -> str:
    command = [str(python), "-c", "import importlib.metadata as m; print(m.version('torch'))"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _uv(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "uv", *arguments], check=True)


def main() -> int:
    """Create and check each environment, and print a table; return 1 if labels differ or a step fails."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=", ".join(environment.name for environment in ENVIRONMENTS)
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "matrix")
    parser.add_argument("--index", default="", help="an index of CPU builds of torch")
    parser.add_argument("--check", action="store_true", help="check only this environment, and print JSON")
    options = parser.parse_args()
    if options.check:
        sys.stdout.write(json.dumps(check()))
        return 0
    rows, labels, failed = [], set(), False
    for environment in ENVIRONMENTS:
        if options.names and environment.name not in options.names:
            continue
        base = interpreter(environment.python)
        if base is None:
            rows.append(f"| {environment.name} | not run: Python {environment.python} is not on PATH or in pyenv |")
            continue
        python = make(environment, base, options.folder.resolve() / environment.name, options.index)
        # Run with -P and in another folder, so that Python imports the installed package and not the checkout.
        ran = subprocess.run(
            [str(python), "-P", "-W", "ignore::SyntaxWarning", str(Path(__file__).resolve()), "--check"],
            capture_output=True,
            text=True,
            cwd=options.folder,
            check=False,
        )
        if ran.returncode:
            failed = True
            rows.append(f"| {environment.name} | failed: {ran.stderr.strip().splitlines()[-1]} |")
            sys.stderr.write(ran.stderr[-3000:])
            continue
        results = json.loads(ran.stdout)
        labels.update(results["annotate"])
        failed |= "differs" in (results["export"], results["hub"])
        shown = [", ".join(results["annotate"]), *(results[step] for step in STEPS[1:])]
        versions = [results["versions"][name] for name in ("python", *SHOWN)]
        rows.append("| " + " | ".join([environment.name, *versions, *shown]) + " |")
    heading = ("environment", "python", *SHOWN, "labels", "trained: accuracy", "exported", "pushed and pulled")
    sys.stdout.write("\n".join([f"| {' | '.join(heading)} |", "|---" * len(heading) + "|", *rows]) + "\n")
    sys.stdout.write("labels differ\n" if len(labels) > 1 else "")
    return int(failed or len(labels) != 1)


if __name__ == "__main__":
    sys.exit(main())
