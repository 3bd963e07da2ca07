"""A graph and its labels, run by ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from spikgpt_onnx import contract


class GraphError(Exception):
    """A graph is not the one that the files beside it belong to."""


class Graph:
    """An exported reference.

    Parameters
    ----------
    folder
        What ``spikgpt export`` or ``spikgpt pull`` wrote.

    Raises
    ------
    GraphError
        When the folder has no graph, or one that carries other labels, thresholds or genes than the files beside it.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        if not (folder / contract.GRAPH).is_file():
            msg = f"{folder} has no {contract.GRAPH}; make one with: spikgpt export MODEL --out FOLDER"
            raise GraphError(msg)
        labels = json.loads((folder / contract.LABELS).read_text())
        thresholds = json.loads((folder / contract.THRESHOLDS).read_text())
        genes = json.loads((folder / contract.GENES).read_text())
        self.labels: tuple[str, ...] = tuple(row["name"] for row in labels)
        self.threshold = float(thresholds["threshold"])
        options = onnxruntime.SessionOptions()
        # Errors only: inputs that have a default are meant to, and no cause for a warning.
        options.log_severity_level = 3
        content = (folder / contract.GRAPH).read_bytes()
        try:
            # From memory, so that the graph cannot name other files to read.
            self.session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no other base
            msg = f"{folder / contract.GRAPH} cannot be run: {error}"
            raise GraphError(msg) from error
        expected = {"labels": labels, "thresholds": thresholds}
        found = {name: json.loads(self.metadata.get(name, "null")) for name in expected}
        if found != expected or self.metadata.get("genes_sha256") != genes["sha256"]:
            msg = f"{folder / contract.GRAPH} carries other labels, thresholds or genes than the files beside it."
            raise GraphError(msg)

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
