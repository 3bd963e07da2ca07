"""Damaged and maliciously altered references, each with the expected error message."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from spikgpt.reference.files import Tensors
from spikgpt.reference.format import GRAPH, GRAPHS, MANIFEST, PARITY, graph_sources

Change = Callable[[dict[str, bytes]], dict[str, bytes]]


def listed(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files with a new manifest that matches the contents."""
    entries = {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
        if name != MANIFEST
    }
    return files | {MANIFEST: json.dumps({"files": entries}).encode()}


def rewritten(name: str, change: Callable[[Any], Any]) -> Change:
    """Return a function that changes a JSON file and its entry in the manifest."""
    return lambda files: listed(files | {name: json.dumps(change(json.loads(files[name]))).encode()})


def replaced(name: str, content: bytes) -> Change:
    return lambda files: listed(files | {name: content})


def without(*names: str) -> Change:
    return lambda files: {name: content for name, content in files.items() if name not in names}


def tensors(change: Callable[[Tensors], object]) -> Change:
    def apply(files: dict[str, bytes]) -> dict[str, bytes]:
        weights = load_tensors(files["model.safetensors"])
        change(weights)
        return listed(files | {"model.safetensors": save_tensors(weights)})

    return apply


def manifest(change: Callable[[dict[str, Any]], object]) -> Change:
    def apply(files: dict[str, bytes]) -> dict[str, bytes]:
        values = json.loads(files[MANIFEST])
        change(values["files"])
        return files | {MANIFEST: json.dumps(values).encode()}

    return apply


def header(change: Callable[[dict[str, Any]], object]) -> Change:
    """Return a function that changes the header of the safetensors file and keeps the tensor data."""

    def apply(files: dict[str, bytes]) -> dict[str, bytes]:
        content = files["model.safetensors"]
        (size,) = struct.unpack("<Q", content[:8])
        values = json.loads(content[8 : 8 + size])
        change(values)
        text = json.dumps(values).encode()
        return listed(files | {"model.safetensors": struct.pack("<Q", len(text)) + text + content[8 + size :]})

    return apply


def model(**values: Any) -> Change:
    return rewritten("config.json", lambda config: config | {"model": config["model"] | values})


def embedder(**values: Any) -> Change:
    return rewritten("config.json", lambda config: config | {"embedder": config["embedder"] | values})


def held_out(**values: Any) -> Change:
    return rewritten("metrics.json", lambda metrics: metrics | {"held_out": metrics["held_out"] | values})


def first(name: str, index: tuple[int, ...], value: float) -> Change:
    def change(weights: Tensors) -> None:
        weights[name][index] = value

    return tensors(change)


# A pickle that runs os.system("true") when it is loaded.
PICKLE = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94."
SHA_OF_ONNX = {"sha256": hashlib.sha256(b"onnx").hexdigest()}
MALICIOUS: dict[str, tuple[Change, str]] = {
    "only pickled weights": (
        lambda files: {"config.json": b"{}", "pytorch_model.bin": PICKLE, "model.pkl": PICKLE},
        "is no SpikGPT reference: .* holds model.pkl, pytorch_model.bin, and pickled weights are never opened",
    ),
    "an empty repository": (lambda files: {}, "is no SpikGPT reference: it lacks manifest.json"),
    "a pickle called safetensors": (replaced("model.safetensors", PICKLE), "is not a safetensors file"),
    "a pickle in the manifest": (
        lambda files: listed(files | {"weights.bin": PICKLE}),
        "lists 'weights.bin', which no reference has",
    ),
    "a path out of the folder in the manifest": (
        manifest(lambda entries: entries.update({"../../../etc/passwd": {"size": 1, "sha256": "0" * 64}})),
        "lists '../../../etc/passwd', which no reference has",
    ),
    "an absolute path in the manifest": (
        manifest(lambda entries: entries.update({"/etc/passwd": {"size": 1, "sha256": "0" * 64}})),
        "lists '/etc/passwd', which no reference has",
    ),
    "a path out of the folder in the repository": (
        lambda files: files | {"../evil.json": b"{}"},
        "has a file called '../evil.json', which leaves its folder",
    ),
    "a manifest of other bytes": (
        manifest(lambda entries: entries["labels.json"].update(sha256="0" * 64)),
        "labels.json differs from what manifest.json lists",
    ),
    "a manifest of another size": (
        manifest(lambda entries: entries["labels.json"].update(size=10**15)),
        "manifest.json lists 1000000000000000 bytes of labels.json; expected at most",
    ),
    "a manifest with a size that is text": (
        manifest(lambda entries: entries["labels.json"].update(size="1")),
        "Expected `int`, got `str`, in files.*size",
    ),
    "a manifest that leaves a file out": (
        manifest(lambda entries: entries.pop("thresholds.json")),
        "manifest.json does not list thresholds.json",
    ),
    "a manifest that is not JSON": (lambda files: files | {MANIFEST: b"{"}, "manifest.json is not valid JSON"),
    "a missing file": (without("genes.json"), "has no genes.json, which every reference has"),
    "deeply nested JSON": (replaced("metrics.json", b"[" * 100_000), "metrics.json is not valid JSON"),
    "a threshold stated twice": (
        lambda files: listed(
            files
            | {
                "thresholds.json": files["thresholds.json"].replace(
                    b'"unknown_rate"', b'"threshold": 0.0, "unknown_rate"'
                )
            }
        ),
        "thresholds.json is not valid JSON .*occurs twice",
    ),
    "NaN in JSON": (
        lambda files: listed(files | {"thresholds.json": files["thresholds.json"].replace(b"0.95", b"NaN")}),
        "thresholds.json is not valid JSON .NaN is no number",
    ),
    "a threshold above 1": (
        rewritten("thresholds.json", lambda values: values | {"threshold": 7}),
        "thresholds.json .*7",
    ),
    "an unknown method": (
        rewritten("thresholds.json", lambda values: values | {"method": "magic"}),
        "thresholds.json .*(maximum probability|magic)",
    ),
    "a label map that is too short": (
        rewritten("labels.json", lambda rows: rows[:-1]),
        "labels.json names 3 labels; the network has 4",
    ),
    "repeated labels": (
        rewritten("labels.json", lambda rows: [row | {"name": "beta"} for row in rows]),
        "beta occurs more than once",
    ),
    "labels in another order": (rewritten("labels.json", lambda rows: rows[::-1]), "Row 0 of labels.json"),
    "a label with control characters": (
        rewritten("labels.json", lambda rows: [rows[0] | {"name": "\x1b[2Jalpha"}, *rows[1:]]),
        "is empty or has control characters",
    ),
    "a name with control characters": (
        rewritten("config.json", lambda config: config | {"name": "a\x1b]0;owned\x07"}),
        "name is .*; expected a line of text without control characters",
    ),
    "weights that are NaN": (first("classifier.head.weight", (0, 0), float("nan")), "head.weight .* holds NaN or inf"),
    "an embedder that is infinite": (first("embedder.mean", (0,), float("inf")), "embedder.mean .* holds NaN or inf"),
    "a deviation of zero": (
        first("embedder.std", (0,), 0.0),
        "holds negative deviations or shares, or a deviation below 1e-06",
    ),
    "negative shares": (
        first("embedder.label_shares", (0,), -1.0),
        "holds negative deviations or shares, or a deviation below 1e-06",
    ),
    "a tensor of another shape": (
        tensors(lambda weights: weights.update({"classifier.head.bias": np.zeros(5, dtype=np.float32)})),
        r"head.bias \(expected \(4,\), found \(5,\)\)",
    ),
    "a missing tensor": (tensors(lambda weights: weights.pop("classifier.head.bias")), "found None"),
    "an additional tensor": (
        tensors(lambda weights: weights.update(extra=np.zeros(1, dtype=np.float32))),
        "holds the tensor 'extra'",
    ),
    "a tensor of another type": (
        tensors(lambda weights: weights.update({"embedder.mean": weights["embedder.mean"].astype(np.float64)})),
        "is float64; expected float32",
    ),
    "an embedder of other dimensions": (
        tensors(lambda weights: weights.update({"embedder.components": np.zeros((), dtype=np.float32)})),
        r"the tensor components of shape \(\); expected \(\d+, \d+\)",
    ),
    "an embedder of other labels": (
        tensors(
            lambda weights: weights.update(
                {
                    f"embedder.{name}": weights[f"embedder.{name}"][:3]
                    for name in ("label_means", "label_stds", "label_shares")
                }
            )
        ),
        r"the tensor label_means of shape \(3, 80\); expected \(4, 80\)",
    ),
    "a huge shape in the safetensors header": (
        header(lambda values: values["embedder.mean"].update(shape=[2**50])),
        "is not a safetensors file",
    ),
    "data that lies outside of the file": (
        header(lambda values: values["embedder.mean"].update(data_offsets=[10**12, 10**12 + 320])),
        "is not a safetensors file",
    ),
    "a huge safetensors header": (
        replaced("model.safetensors", struct.pack("<Q", 2**60) + b"{}"),
        "is not a safetensors file",
    ),
    "a huge network": (model(width=10**12, heads=1), "width of the network is 1000000000000: Expected `int` <= 100000"),
    "a wide network": (model(width=99_000, heads=1), "The network has about .* weights; expected at most"),
    "a deep network": (model(depth=90), "tensors differ, such as blocks.1."),
    "a billion time steps": (model(time_steps=10**9), "time_steps of the network is 1000000000: Expected `int` <= 100"),
    "a tau that overflows": (
        lambda files: listed(files | {"config.json": files["config.json"].replace(b'"tau": 2.0', b'"tau": 1e999')}),
        "config.json is not valid JSON .1e999 is no number",
    ),
    "a missing setting": (
        rewritten("config.json", lambda config: config | {"model": {"width": 8}}),
        "The model config lacks",
    ),
    "an unknown setting": (model(backdoor=True), "has backdoor that is unknown"),
    "an unknown embedder": (embedder(kind="eval"), "has the embedder .*'eval'"),
    "an embedder with a bad number": (
        embedder(clip="10"),
        "The pca embedder .*Expected `float`, got `str`, in clip: found '10'",
    ),
    "genes that differ from their hash": (
        rewritten("genes.json", lambda genes: genes | {"symbols": [*genes["symbols"][1:], "EVIL"]}),
        "genes.json states sha256",
    ),
    "genes that are not text": (
        rewritten("genes.json", lambda genes: genes | {"symbols": [["INS"]] * len(genes["symbols"])}),
        "Expected `str`, got `array`, in symbols",
    ),
    "an accuracy above 1": (held_out(accuracy=1.7), "Expected `float` <= 1.0, in held_out.accuracy: found 1.7"),
    "an accuracy that is text": (
        held_out(accuracy="[bold]"),
        "got `str`, in held_out.accuracy: found '.bold.'",
    ),
    "metrics of other labels": (
        rewritten("metrics.json", lambda metrics: metrics | {"cells_per_label": {"x": 1}}),
        "cells_per_label in metrics.json does not count the cells of each label",
    ),
    "a confusion matrix that is not square": (
        held_out(confusion={"labels": ["a"], "counts": [[1, 2]]}),
        "counts must be a square matrix of 1 label",
    ),
    "a provenance without a recipe": (
        rewritten("config.json", lambda config: config | {"provenance": {"seed": 1}}),
        "missing required field `recipe`, in provenance",
    ),
    "a source with control characters": (
        rewritten("config.json", lambda config: config | {"provenance": config["provenance"] | {"source": "\x1b[9A"}}),
        "source is .* expected a line of text without control characters, in provenance",
    ),
    "datasets that are not a list": (
        rewritten("config.json", lambda config: config | {"provenance": config["provenance"] | {"datasets": "GSE1"}}),
        "Expected `array`, got `str`, in provenance.datasets",
    ),
    "an ontology id with control characters": (
        rewritten("labels.json", lambda rows: [rows[0] | {"cell_ontology_id": "\x1b[9A"}, *rows[1:]]),
        "is no Cell Ontology id, such as",
    ),
    "a newer format": (
        rewritten("config.json", lambda config: config | {"format_version": 99}),
        "is in format 99 .* Install spikgpt",
    ),
    "a library range that is code": (
        rewritten("config.json", lambda config: config | {"library": {"requires": "; rm -rf ~"}}),
        "requires spikgpt '; rm -rf ~'; expected a range",
    ),
    "weights of a type that NumPy lacks": (
        header(lambda values: values["embedder.mean"].update(dtype="BF16", shape=[160])),
        "is not a safetensors file",
    ),
    "a negative number of cells": (held_out(cells=-1), "Expected `int` >= 0, in held_out.cells: found -1"),
    "a metric that is null": (held_out(macro_f1=None), "Expected `float`, got `null`, in held_out.macro_f1"),
    "a seed that is not a number": (
        rewritten("config.json", lambda config: config | {"provenance": config["provenance"] | {"seed": True}}),
        "Expected `int`, got `bool`, in provenance.seed",
    ),
    "a paper in another form": (
        rewritten("config.json", lambda config: config | {"provenance": config["provenance"] | {"paper": {"x": 1}}}),
        "in provenance.paper",
    ),
    "a field of no version in config.json": (
        rewritten("config.json", lambda config: config | {"code": "setup.py"}),
        "unknown field `code`",
    ),
    "a graph without a report": (
        lambda files: listed(files | {GRAPH: b"onnx"}),
        "has both graphs and onnx/parity.json, or neither",
    ),
    "a graph of other weights": (
        lambda files: listed(files | {GRAPH: b"onnx", PARITY: json.dumps({"made_from": {}, "graphs": {}}).encode()}),
        "was made from another model.safetensors and labels.json and thresholds.json and genes.json than this",
    ),
    "a report without a graph": (
        lambda files: listed(files | {PARITY: json.dumps({"made_from": graph_sources(files), "graphs": {}}).encode()}),
        "has both graphs and onnx/parity.json, or neither",
    ),
    "a graph without a parity result": (
        lambda files: listed(
            files
            | {GRAPH: b"onnx", PARITY: json.dumps({"made_from": graph_sources(files), "graphs": {GRAPH: {}}}).encode()}
        ),
        "was written for another onnx/model.onnx than this",
    ),
    "a second graph without a parity result": (
        lambda files: listed(
            files
            | {GRAPHS["int8"]: b"x", GRAPH: b"onnx"}
            | {PARITY: json.dumps({"made_from": graph_sources(files), "graphs": {GRAPH: SHA_OF_ONNX}}).encode()}
        ),
        "was written for another onnx/model_int8.onnx than this",
    ),
    "a negative variance": (
        first("classifier.stem.norm.running_var", (0,), -1.0),
        "running_var holds a variance below 0",
    ),
    "a deviation near zero": (first("embedder.std", (0,), 1e-45), "a deviation below 1e-06"),
    "very large weights": (first("classifier.head.bias", (0,), 1e30), "holds 1e.30; expected at most 1e.12"),
    "very large log expression": (first("embedder.mean", (0,), 1e6), "holds log expression of 1e.06"),
    "shares that add up to 0": (
        tensors(lambda weights: weights.update({"embedder.label_shares": weights["embedder.label_shares"] * 0})),
        "label shares of the pca embedder add up to 0; expected 1",
    ),
    "an infinite target sum": (
        lambda files: listed(files | {"config.json": files["config.json"].replace(b"10000.0", b"1e999")}),
        "config.json is not valid JSON .1e999 is no number",
    ),
    "a target sum near zero": (embedder(target_sum=5e-324), "Expected `float` >= 1.0, in target_sum"),
    "a number of 400 digits": (held_out(cells=10**400), "metrics.json is not valid JSON .1000+ is no number"),
    "a count beyond 64 bits": (held_out(cells=10**30), "metrics.json is not valid JSON .1000+ is no number"),
    "JSON with 50 nested lists": (
        rewritten("metrics.json", lambda metrics: metrics | {"more": json.loads("[" * 50 + "]" * 50)}),
        "metrics.json is not valid JSON .it has more than 32 lists and objects within each other",
    ),
    "empty metrics": (replaced("metrics.json", b"{}"), "metrics.json .* missing required field"),
    "a type of 8 bits": (
        header(lambda values: values["embedder.mean"].update(dtype="F8_E4M3", shape=[320])),
        "is not a safetensors file of known types",
    ),
    "a shape too large for an array": (
        header(lambda values: values.update(x={"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]})),
        "is not a safetensors file of known types",
    ),
    "many time steps": (model(time_steps=1000), "The network has about .* values a cell; expected at most"),
    "many labels": (model(n_labels=100_000), "n_labels of the network is 100000: Expected `int` <= 10000"),
    "too many weights": (model(width=16_000, heads=1), "The network has about .* weights; expected at most"),
    "many values per cell": (
        model(width=2_400, heads=1, time_steps=100),
        "The network has about .* values a cell; expected at most",
    ),
    "labels that differ only in case": (
        rewritten("labels.json", lambda rows: [rows[0] | {"name": "Tuft"}, rows[1] | {"name": "tuft"}, *rows[2:]]),
        "'Tuft' and 'tuft' differ only in case or width",
    ),
}
