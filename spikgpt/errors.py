"""The exception family, which :mod:`spikgpt_onnx.errors` draws; both packages raise the same."""

from spikgpt_onnx.errors import (
    CheckpointError,
    ConfigError,
    DamagedReference,
    DataError,
    FormatError,
    GenesError,
    GraphError,
    HubError,
    LabelsError,
    ParityError,
    ReferenceNotFound,
    SpikGPTError,
)

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DamagedReference",
    "DataError",
    "FormatError",
    "GenesError",
    "GraphError",
    "HubError",
    "LabelsError",
    "ParityError",
    "ReferenceNotFound",
    "SpikGPTError",
]
