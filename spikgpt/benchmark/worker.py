"""The process of one method: ``python -m spikgpt.benchmark.worker MODULE FOLDER [PARENT]``.

The folder holds ``reference.h5ad``, ``query.h5ad`` and ``settings.json``; the answer is written beside them. The
process ends with its parent, of that number.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
from anndata import read_h5ad

from spikgpt.benchmark.methods.answer import Answer, Settings


def main() -> None:
    """Run a method."""
    module, folder = sys.argv[1], Path(sys.argv[2])
    if parent := [int(number) for number in sys.argv[3:]]:
        threading.Thread(target=_leave_with, args=parent, daemon=True).start()
    answered(module, folder).write(folder)


def answered(module: str, folder: Path) -> Answer:
    """Return what the method of a module answers to the cells in a folder.

    Raises
    ------
    ValueError
        When the answer is not as it should be.
    """
    settings = Settings.read(folder)
    reference, query = (read_h5ad(folder / f"{name}.h5ad") for name in ("reference", "query"))
    labels = reference.obs[settings.label_key].astype(str).unique()
    answer: Answer = importlib.import_module(module).run(reference, query, settings)
    strange = np.setdiff1d(np.asarray(answer.labels, dtype=str), labels)
    fault = answer.fault(query.n_obs)
    if not fault and len(strange):
        fault = f"there are labels that the reference does not have: {', '.join(strange[:5])}"
    if fault:
        msg = f"The answer cannot be used: {fault}"
        raise ValueError(msg)
    return answer


def _leave_with(parent: int) -> None:
    """Leave as soon as the benchmark is gone: nobody waits for the answer."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    main()
