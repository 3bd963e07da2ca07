"""A graph and its labels, run by ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from spikgpt_onnx import contract

# What ONNX Runtime calls each kind of device.
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class GraphError(Exception):
    """A graph is not the one that the files beside it belong to, or cannot run where it was asked to."""


class Graph:
    """An exported reference.

    Parameters
    ----------
    folder
        What ``spikgpt export`` or ``spikgpt pull`` wrote.
    provider
        ``cpu`` or ``cuda``. A graph that was asked onto a GPU runs there or nowhere.

    Raises
    ------
    GraphError
        When the folder has no graph, or one that carries other labels, thresholds or genes than the files beside it;
        or when there is no such device.
    """

    def __init__(self, folder: str | Path, *, provider: str = "cpu") -> None:
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
        if provider not in PROVIDERS:
            msg = f"There is no provider {provider!r}; choose {' or '.join(PROVIDERS)}."
            raise GraphError(msg)
        if PROVIDERS[provider] not in onnxruntime.get_available_providers():
            msg = f"This onnxruntime has no {provider}: pip uninstall onnxruntime, then pip install onnxruntime-gpu"
            raise GraphError(msg)
        if provider != "cpu":
            # Else ONNX Runtime goes to the CPU without a word.
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        content = (folder / contract.GRAPH).read_bytes()
        try:
            # From memory, so that the graph cannot name other files to read.
            self.session = onnxruntime.InferenceSession(content, options, [PROVIDERS[provider]])
        except Exception as error:  # onnxruntime's errors share no other base
            msg = f"{folder / contract.GRAPH} cannot be run on {provider}: {error}"
            raise GraphError(msg) from error
        if self.session.get_providers()[0] != PROVIDERS[provider]:
            msg = f"ONNX Runtime took {self.session.get_providers()[0]} instead of {provider}; is there such a device?"
            raise GraphError(msg)
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
