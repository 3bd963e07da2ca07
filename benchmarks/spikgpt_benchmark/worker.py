"""Run one method in its own process: ``python -m spikgpt_benchmark.worker MODULE FOLDER [PARENT]``.

The folder holds ``reference.h5ad``, ``query.h5ad`` and ``settings.json``; the result is written beside these files. The
process exits when its parent ends; ``PARENT`` is the process number of the parent.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData, read_h5ad

from spikgpt_benchmark.methods.result import MethodResult, MethodSettings


def main() -> None:
    """Run a method and write its result."""
    module, folder = sys.argv[1], Path(sys.argv[2])
    if parent := [int(number) for number in sys.argv[3:]]:
        threading.Thread(target=_exit_with, args=parent, daemon=True).start()
    run_method(module, folder).write(folder)


def run_method(module: str, folder: Path) -> MethodResult:
    """Run the method of a module on the cells in a folder, and return its result.

    Raises
    ------
    ValueError
        When the result does not fit the cells and labels.
    """
    settings = MethodSettings.read(folder)
    reference, query = (read_h5ad(folder / f"{name}.h5ad") for name in ("reference", "query"))
    result = fit_and_predict(importlib.import_module(module), reference, query, settings)
    fault, labels = result.fault(query.n_obs), reference.obs[settings.label_key].astype(str).unique()
    strange = np.setdiff1d(np.asarray(result.labels, dtype=str), labels)
    if not fault and len(strange):
        fault = f"there are labels that the reference does not have: {', '.join(strange[:5])}"
    if fault:
        msg = f"The result cannot be used: {fault}"
        raise ValueError(msg)
    return result


def fit_and_predict(method: Any, reference: AnnData, query: AnnData, settings: MethodSettings) -> MethodResult:
    """Return the result of a method module, with times and versions.

    The module's ``IMPORTS`` are imported before the clock starts. ``VERSIONS`` names the packages whose
    versions the result states.
    """
    for name in getattr(method, "IMPORTS", ()):
        importlib.import_module(name)
    start = time.perf_counter()
    predict = method.fit(reference, settings)
    fitted = time.perf_counter()
    result: MethodResult = predict(query)
    end = time.perf_counter()
    return replace(
        result,
        # A script in R measures its own times.
        train_seconds=result.train_seconds or fitted - start,
        predict_seconds=result.predict_seconds or end - fitted,
        versions={name: version(name) for name in getattr(method, "VERSIONS", ())} | result.versions,
    )


def _exit_with(parent: int) -> None:
    """Exit as soon as the parent process, the benchmark, ends."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    main()
