"""Random alterations of a reference: JSON fields, tensors, graphs, and the files themselves."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from spikgpt.reference.format import MANIFEST, PARITY
from tests.spikgpt_onnx.altered_graphs import backdoor, metadata

Random = np.random.Generator
Files = dict[str, bytes]
JSON_FILES = ("config.json", "labels.json", "thresholds.json", "genes.json", "metrics.json", PARITY, MANIFEST)
UNUSUAL_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2, 10**6, 2**31, 2**62, 10**30, 10**400, 0.0, -0.5, 1e-45, 5e-324, 1e300, 1e308),
    *("", "x", "\x1b[2J\x07", "a\nb", "<script>alert(1)</script>", "---\nlicense: x\n---", "../../etc/passwd"),
    *("Unknown", "unknown", " space ", "A" * 100_000, "e\u0301", "\u202eevil", "| x |", [], {}, [[]], {"": None}),
)
# Values that are written into the JSON text directly, because json.dumps cannot write these values.
RAW_VALUES = (
    "NaN",
    "Infinity",
    "1e999",
    "-1e999",
    "1" * 5000,
    "[" * 500 + "]" * 500,
    '{"a":' * 50 + "1" + "}" * 50,
    "0x10",
)
MARK = "placeholder of a raw value"


def choice(random: Random, values: Any) -> Any:
    """Return one of the given values at random."""
    values = list(values)
    return values[int(random.integers(len(values)))]


def alter_json(files: Files, random: Random) -> Files:
    """Change a random value or key of a JSON file."""
    name = choice(random, [name for name in JSON_FILES if name in files])
    values = json.loads(files[name])
    path: list[tuple[Any, Any]] = []
    node = values
    while isinstance(node, dict | list) and node and (len(path) < 2 or random.random() < 0.8):
        key = choice(random, node) if isinstance(node, dict) else int(random.integers(len(node)))
        path.append((node, key))
        node = node[key]
    target, key = path[-1]
    how = choice(random, ("strange", "strange", "strange", "near", "missing", "extra", "twice", "raw", "many"))
    value = target[key]
    if how == "strange":
        target[key] = choice(random, UNUSUAL_VALUES)
    elif how == "near" and isinstance(value, int | float) and not isinstance(value, bool):
        target[key] = choice(random, (value + 1, value - 1, value * 2, -value, value / 3, value * 1e3))
    elif how == "near" and isinstance(value, str):
        target[key] = choice(random, (value.upper(), value + " ", value[:-1], value + "\u200b", value + value))
    elif how == "missing":
        del target[key]
    elif how == "extra" and isinstance(target, dict):
        target[choice(random, ("extra", "\x1b[2J", "", "name"))] = choice(random, UNUSUAL_VALUES)
    elif how == "many" and isinstance(target, list):
        target.extend([value] * int(choice(random, (1, 1000, 100_000))))
    else:
        target[key] = MARK
    text = json.dumps(values)
    if how == "twice" and isinstance(target, dict):
        text = text.replace(f'"{MARK}"', f"1, {json.dumps(key)}: 2")
    return files | {name: text.replace(f'"{MARK}"', choice(random, RAW_VALUES)).encode("utf-8", "surrogatepass")}


def alter_tensor(files: Files, random: Random) -> Files:
    """Change the values, type, shape or name of a tensor."""
    tensors = load_tensors(files["model.safetensors"])
    name = choice(random, sorted(tensors))
    array = tensors[name].copy()
    how = choice(random, ("value", "value", "all", "all", "type", "shape", "missing", "extra", "swapped", "noise"))
    if how == "value" and array.size:
        extremes = (np.nan, np.inf, -np.inf, -1.0, 0.0, 1e-45, 1e30, 3e38, -3e38, 1e6, 60_000)
        with np.errstate(all="ignore"):
            array.reshape(-1)[random.integers(array.size)] = np.asarray(choice(random, extremes)).astype(array.dtype)
    elif how == "all":
        with np.errstate(all="ignore"):
            factor = choice(random, (0.0, -1.0, 1e-45, 1e-30, 1e3, 1e10, 1e20, 1e30))
            array = (array.astype(np.float64) * factor).astype(array.dtype)
    elif how == "type":
        array = array.astype(
            choice(random, (np.float64, np.float16, np.int64, np.int8, np.bool_, np.uint16, np.complex64))
        )
    elif how == "shape" and array.ndim:
        array = np.ascontiguousarray(choice(random, (array.T, array[:-1], array[:0], array[None], array.reshape(-1))))
    elif how == "missing":
        del tensors[name]
    elif how == "extra":
        tensors[choice(random, ("extra", "classifier.extra", "embedder.x", "familiarity.\x1b"))] = array
    elif how == "swapped":
        other = choice(random, sorted(tensors))
        tensors[other], array = array, tensors[other]
    else:
        array = random.standard_normal(array.shape).astype(array.dtype)
    if how != "missing":
        tensors[name] = np.array(array)
    return files | {"model.safetensors": save_tensors(tensors)}


def alter_header(files: Files, random: Random) -> Files:
    """Change the header of the safetensors file and keep its data."""
    content = files["model.safetensors"]
    (size,) = struct.unpack("<Q", content[:8])
    values = json.loads(content[8 : 8 + size])
    entry = values[choice(random, [name for name in values if name != "__metadata__"])]
    how = choice(random, ("dtype", "shape", "offsets", "size", "metadata"))
    if how == "dtype":
        entry["dtype"] = choice(random, ("BF16", "F8_E4M3", "F8_E5M2", "F64", "I8", "BOOL", "C64", "F4", "\x1b", 3))
    elif how == "shape":
        entry["shape"] = choice(random, ([0, 2**62], [2**62, 2**62], [-1], [0], [1] * 100, [2**50], [2**64], [1e300]))
    elif how == "offsets":
        entry["data_offsets"] = choice(random, ([0, 10**12], [10**12, 0], [0, 0], [-1, 3], [0, 2**64]))
    elif how == "metadata":
        values["__metadata__"] = choice(random, ({"a": "\x1b"}, {"a": 1}, [], {"a": "x" * 10**6}))
    text = json.dumps(values).encode()
    header_size = choice(random, (2**60, 0, 7, 2**63)) if how == "size" else len(text)
    return files | {"model.safetensors": struct.pack("<Q", header_size) + text + content[8 + size :]}


def alter_bytes(files: Files, random: Random) -> Files:
    """Flip, truncate, remove, repeat or randomise the bytes of a file."""
    name = choice(random, sorted(files))
    content = bytearray(files[name])
    how = choice(random, ("flip", "flip", "cut", "empty", "double", "noise"))
    if how == "flip":
        for position in random.integers(len(content), size=int(random.integers(1, 6))):
            content[position] ^= int(random.integers(1, 256))
    elif how == "cut":
        del content[int(random.integers(len(content))) :]
    elif how in ("empty", "noise"):
        content = bytearray(random.bytes(200)) if how == "noise" else bytearray()
    else:
        content *= 2
    return files | {name: bytes(content)}


def alter_graph(files: Files, random: Random) -> Files:
    """Change a weight, a node or another part of a graph; half of the graphs state another version of SpikGPT."""
    graphs = [name for name in files if name.endswith(".onnx")]
    if not graphs:
        return alter_tensor(files, random)
    name = choice(random, graphs)
    model = onnx.load_from_string(files[name])
    choice(random, GRAPH_ALTERATIONS)(model, random)
    if random.random() < 0.5:
        metadata(spikgpt_version=choice(random, ("0.4.0", "9.9", "\x1b[2J", "")))(model)
    return files | {name: model.SerializeToString()}


def _weights(model: onnx.ModelProto, random: Random) -> None:
    tensor = choice(random, model.graph.initializer)
    values = numpy_helper.to_array(tensor).copy()
    index = random.integers(max(values.size, 1))
    if values.size and values.dtype.kind == "f":
        value = values.reshape(-1)[index]
        new_values = (np.nextafter(value, np.inf, dtype=values.dtype), -value, np.nan, np.inf, value * 3)
        values.reshape(-1)[index] = choice(random, new_values)
    elif values.size:
        values.reshape(-1)[index] = choice(random, (0, -1, 7, 100))
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _node(model: onnx.ModelProto, random: Random) -> None:
    nodes = model.graph.node
    index = int(random.integers(len(nodes)))
    how = choice(random, ("operator", "operator", "domain", "removed", "input", "attribute", "twice"))
    if how == "operator":
        nodes[index].op_type = choice(
            random, ("Sub", "Relu", "Loop", "Tile", "NonZero", "If", "Xor", "Max", "Identity", "")
        )
    elif how == "domain":
        nodes[index].domain = choice(random, ("com.microsoft", "ai.onnx.ml", "evil", "ai.onnx"))
    elif how == "removed":
        del nodes[index]
    elif how == "input" and nodes[index].input:
        nodes[index].input[0] = choice(random, ("counts", "nowhere", *nodes[index].output))
    elif how == "attribute":
        nodes[index].attribute.append(helper.make_attribute("alpha", choice(random, (1.0, 7, [1.0], "text"))))
    else:
        nodes.append(nodes[index])


def _metadata(model: onnx.ModelProto, random: Random) -> None:
    values: tuple[str, ...] = ("", "[]", "\x1b[2J", "x" * 10_000)
    entry = choice(random, model.metadata_props)
    entry.value = choice(random, (*values, entry.value.replace("alpha", "beta"), entry.value[::-1]))


def _external_data(model: onnx.ModelProto, random: Random) -> None:
    tensor = model.graph.initializer[int(random.integers(len(model.graph.initializer)))]
    location = choice(random, ("secret", "../secret", "/etc/passwd", "/dev/zero"))
    outside = TensorProto()
    outside.CopyFrom(tensor)
    outside.ClearField("raw_data")
    onnx.external_data_helper.set_external_data(numpy_helper.from_array(np.zeros(1), "x"), location)
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value=location)
    how = choice(random, ("initializer", "attribute", "sparse", "function", "inner"))
    if how == "initializer":
        tensor.CopyFrom(outside)
    elif how == "attribute":
        model.graph.node[0].attribute.append(helper.make_attribute("value", outside))
    elif how == "sparse":
        model.graph.sparse_initializer.add().values.CopyFrom(outside)
    elif how == "function":
        node = helper.make_node("Constant", [], ["o"], value=outside)
        model.functions.append(helper.make_function("", "Relu", ["i"], ["o"], [node], [helper.make_opsetid("", 18)]))
    else:
        inner = helper.make_graph([helper.make_node("Identity", [outside.name], ["o"])], "g", [], [], [outside])
        model.graph.node.append(helper.make_node("If", ["c"], ["o"], then_branch=inner, else_branch=inner))


def _tensor_type(model: onnx.ModelProto, random: Random) -> None:
    value = choice(random, (*model.graph.input, *model.graph.output))
    value.type.tensor_type.elem_type = choice(
        random, (TensorProto.DOUBLE, TensorProto.STRING, TensorProto.INT32, 0, 99)
    )


def _version(model: onnx.ModelProto, random: Random) -> None:
    if random.random() < 0.5:
        model.ir_version = choice(random, (0, 1, 99, 2**31))
    else:
        model.opset_import[0].version = choice(random, (1, 7, 99))


def _backdoor(model: onnx.ModelProto, random: Random) -> None:
    if any(value.name == "counts" for value in model.graph.input):
        backdoor(model)
    else:
        _weights(model, random)


GRAPH_ALTERATIONS = (
    _weights,
    _weights,
    _weights,
    _node,
    _node,
    _metadata,
    _external_data,
    _tensor_type,
    _version,
    _backdoor,
)


def alter_file_names(files: Files, random: Random) -> Files:
    """Remove a file, swap two files, or add a file."""
    name, other = choice(random, sorted(files)), choice(random, sorted(files))
    how = choice(random, ("missing", "swapped", "extra"))
    if how == "missing":
        return {key: content for key, content in files.items() if key != name}
    if how == "swapped":
        return files | {name: files[other], other: files[name]}
    return files | {choice(random, ("extra.bin", "setup.py", "onnx/weights.bin")): b"x"}


def replace_file(folder: Path, random: Random) -> None:
    """Replace a file in a folder by a pipe, device, link, folder, very large file or unreadable file."""
    name = choice(random, sorted(path for path in folder.rglob("*") if path.is_file()))
    how = choice(random, ("pipe", "device", "endless", "link", "loop", "folder", "huge", "pipe by link", "unreadable"))
    content = name.read_bytes()
    name.unlink()
    if how == "pipe":
        os.mkfifo(name)
    elif how == "pipe by link":
        os.mkfifo(folder / "pipe")
        name.symlink_to(folder / "pipe")
    elif how in ("device", "endless"):
        name.symlink_to("/dev/zero" if how == "device" else "/dev/tty")
    elif how == "link":
        name.symlink_to("/etc/hostname")
    elif how == "loop":
        name.symlink_to(name.name)
    elif how == "folder":
        name.mkdir()
    elif how == "huge":
        with name.open("wb") as file:
            file.truncate(2**36)
    else:
        name.write_bytes(content)
        name.chmod(0)


KINDS: dict[str, Callable[[Files, Random], Files]] = {
    "JSON": alter_json,
    "tensor": alter_tensor,
    "header of tensors": alter_header,
    "graph": alter_graph,
    "bytes": alter_bytes,
    "files": alter_file_names,
}
