"""A graph and its labels, run by ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from spikgpt_onnx import contract


class Graph:
    """An exported reference.

    Parameters
    ----------
    folder
        What ``spikgpt export`` wrote.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        self.labels: tuple[str, ...] = tuple(row["name"] for row in json.loads((folder / contract.LABELS).read_text()))
        self.threshold = float(json.loads((folder / contract.THRESHOLDS).read_text())["threshold"])
        options = onnxruntime.SessionOptions()
        # Errors only: inputs that have a default are meant to, and no cause for a warning.
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(folder / contract.GRAPH, options, ["CPUExecutionProvider"])

    @property
    def metadata(self) -> dict[str, str]:
        """What the exporter wrote into the graph."""
        return dict(self.session.get_modelmeta().custom_metadata_map)

    def probabilities(self, inputs: dict[str, npt.NDArray[Any]], *, batch_size: int = 4096) -> npt.NDArray[np.float32]:
        """Run the graph in batches.

        Parameters
        ----------
        inputs
            Arrays by input name. ``gene_mean`` and ``gene_std`` hold for every cell; the others have a row a cell.

        Returns
        -------
        Class probabilities, shape (cells, labels).
        """
        whole = {name: inputs[name] for name in (contract.GENE_MEAN, contract.GENE_STD) if name in inputs}
        rows = {name: array for name, array in inputs.items() if name not in whole}
        cells = len(next(iter(rows.values())))
        outputs = [np.empty((0, len(self.labels)), dtype=np.float32)]
        for start in range(0, cells, batch_size):
            batch = {name: array[start : start + batch_size] for name, array in rows.items()}
            feeds = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in (batch | whole).items()}
            outputs.append(self.session.run([contract.PROBABILITIES], feeds)[0])
        return np.concatenate(outputs)
