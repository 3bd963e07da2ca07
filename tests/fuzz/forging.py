"""Ways to forge a reference, each drawn from a seed: JSON fields, tensors, graphs, and the files themselves."""

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
from tests.spikgpt_onnx.forged import backdoor, metadata

Random = np.random.Generator
Files = dict[str, bytes]
JSONS = ("config.json", "labels.json", "thresholds.json", "genes.json", "metrics.json", PARITY, MANIFEST)
STRANGE: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2, 10**6, 2**31, 2**62, 10**30, 10**400, 0.0, -0.5, 1e-45, 5e-324, 1e300, 1e308),
    *("", "x", "\x1b[2J\x07", "a\nb", "<script>alert(1)</script>", "---\nlicense: x\n---", "../../etc/passwd"),
    *("Unknown", "unknown", " space ", "A" * 100_000, "e\u0301", "\u202eevil", "| x |", [], {}, [[]], {"": None}),
)
# Written as they are, where JSON or Python's json would not have them.
RAW = ("NaN", "Infinity", "1e999", "-1e999", "1" * 5000, "[" * 500 + "]" * 500, '{"a":' * 50 + "1" + "}" * 50, "0x10")
MARK = "here stands what is raw"


def one(random: Random, values: Any) -> Any:
    """Draw one of some values."""
    values = list(values)
    return values[int(random.integers(len(values)))]


def of_json(files: Files, random: Random) -> Files:
    """Change one value, key or byte of a JSON file."""
    name = one(random, [name for name in JSONS if name in files])
    values = json.loads(files[name])
    places: list[tuple[Any, Any]] = []
    node = values
    while isinstance(node, dict | list) and node and (len(places) < 2 or random.random() < 0.8):
        key = one(random, node) if isinstance(node, dict) else int(random.integers(len(node)))
        places.append((node, key))
        node = node[key]
    target, key = places[-1]
    how = one(random, ("strange", "strange", "strange", "near", "missing", "extra", "twice", "raw", "many"))
    value = target[key]
    if how == "strange":
        target[key] = one(random, STRANGE)
    elif how == "near" and isinstance(value, int | float) and not isinstance(value, bool):
        target[key] = one(random, (value + 1, value - 1, value * 2, -value, value / 3, value * 1e3))
    elif how == "near" and isinstance(value, str):
        target[key] = one(random, (value.upper(), value + " ", value[:-1], value + "\u200b", value + value))
    elif how == "missing":
        del target[key]
    elif how == "extra" and isinstance(target, dict):
        target[one(random, ("extra", "\x1b[2J", "", "name"))] = one(random, STRANGE)
    elif how == "many" and isinstance(target, list):
        target.extend([value] * int(one(random, (1, 1000, 100_000))))
    else:
        target[key] = MARK
    text = json.dumps(values)
    if how == "twice" and isinstance(target, dict):
        text = text.replace(f'"{MARK}"', f"1, {json.dumps(key)}: 2")
    return files | {name: text.replace(f'"{MARK}"', one(random, RAW)).encode("utf-8", "surrogatepass")}


def of_tensor(files: Files, random: Random) -> Files:
    """Change the values, type, shape or name of a tensor."""
    tensors = load_tensors(files["model.safetensors"])
    name = one(random, sorted(tensors))
    array = tensors[name].copy()
    how = one(random, ("value", "value", "all", "all", "type", "shape", "missing", "extra", "swapped", "noise"))
    if how == "value" and array.size:
        extremes = (np.nan, np.inf, -np.inf, -1.0, 0.0, 1e-45, 1e30, 3e38, -3e38, 1e6, 60_000)
        with np.errstate(all="ignore"):
            array.reshape(-1)[random.integers(array.size)] = np.asarray(one(random, extremes)).astype(array.dtype)
    elif how == "all":
        with np.errstate(all="ignore"):
            factor = one(random, (0.0, -1.0, 1e-45, 1e-30, 1e3, 1e10, 1e20, 1e30))
            array = (array.astype(np.float64) * factor).astype(array.dtype)
    elif how == "type":
        array = array.astype(
            one(random, (np.float64, np.float16, np.int64, np.int8, np.bool_, np.uint16, np.complex64))
        )
    elif how == "shape" and array.ndim:
        array = np.ascontiguousarray(one(random, (array.T, array[:-1], array[:0], array[None], array.reshape(-1))))
    elif how == "missing":
        del tensors[name]
    elif how == "extra":
        tensors[one(random, ("extra", "classifier.extra", "embedder.x", "familiarity.\x1b"))] = array
    elif how == "swapped":
        other = one(random, sorted(tensors))
        tensors[other], array = array, tensors[other]
    else:
        array = random.standard_normal(array.shape).astype(array.dtype)
    if how != "missing":
        tensors[name] = np.array(array)
    return files | {"model.safetensors": save_tensors(tensors)}


def of_header(files: Files, random: Random) -> Files:
    """Change the header of the safetensors file and leave its data."""
    content = files["model.safetensors"]
    (size,) = struct.unpack("<Q", content[:8])
    values = json.loads(content[8 : 8 + size])
    entry = values[one(random, [name for name in values if name != "__metadata__"])]
    how = one(random, ("dtype", "shape", "offsets", "size", "metadata"))
    if how == "dtype":
        entry["dtype"] = one(random, ("BF16", "F8_E4M3", "F8_E5M2", "F64", "I8", "BOOL", "C64", "F4", "\x1b", 3))
    elif how == "shape":
        entry["shape"] = one(random, ([0, 2**62], [2**62, 2**62], [-1], [0], [1] * 100, [2**50], [2**64], [1e300]))
    elif how == "offsets":
        entry["data_offsets"] = one(random, ([0, 10**12], [10**12, 0], [0, 0], [-1, 3], [0, 2**64]))
    elif how == "metadata":
        values["__metadata__"] = one(random, ({"a": "\x1b"}, {"a": 1}, [], {"a": "x" * 10**6}))
    text = json.dumps(values).encode()
    told = one(random, (2**60, 0, 7, 2**63)) if how == "size" else len(text)
    return files | {"model.safetensors": struct.pack("<Q", told) + text + content[8 + size :]}


def of_bytes(files: Files, random: Random) -> Files:
    """Flip, cut, empty or double the bytes of any file."""
    name = one(random, sorted(files))
    content = bytearray(files[name])
    how = one(random, ("flip", "flip", "cut", "empty", "double", "noise"))
    if how == "flip":
        for place in random.integers(len(content), size=int(random.integers(1, 6))):
            content[place] ^= int(random.integers(1, 256))
    elif how == "cut":
        del content[int(random.integers(len(content))) :]
    elif how in ("empty", "noise"):
        content = bytearray(random.bytes(200)) if how == "noise" else bytearray()
    else:
        content *= 2
    return files | {name: bytes(content)}


def of_graph(files: Files, random: Random) -> Files:
    """Change the weights, nodes, metadata or reach of a graph; half of them state another version of this library."""
    graphs = [name for name in files if name.endswith(".onnx")]
    if not graphs:
        return of_tensor(files, random)
    name = one(random, graphs)
    model = onnx.load_from_string(files[name])
    one(random, GRAPHS)(model, random)
    if random.random() < 0.5:
        metadata(spikgpt_version=one(random, ("0.4.0", "9.9", "\x1b[2J", "")))(model)
    return files | {name: model.SerializeToString()}


def _weights(model: onnx.ModelProto, random: Random) -> None:
    tensor = one(random, model.graph.initializer)
    values = numpy_helper.to_array(tensor).copy()
    place = random.integers(max(values.size, 1))
    if values.size and values.dtype.kind == "f":
        value = values.reshape(-1)[place]
        told = (np.nextafter(value, np.inf, dtype=values.dtype), -value, np.nan, np.inf, value * 3)
        values.reshape(-1)[place] = one(random, told)
    elif values.size:
        values.reshape(-1)[place] = one(random, (0, -1, 7, 100))
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _node(model: onnx.ModelProto, random: Random) -> None:
    nodes = model.graph.node
    place = int(random.integers(len(nodes)))
    how = one(random, ("operator", "operator", "domain", "removed", "input", "attribute", "twice"))
    if how == "operator":
        nodes[place].op_type = one(
            random, ("Sub", "Relu", "Loop", "Tile", "NonZero", "If", "Xor", "Max", "Identity", "")
        )
    elif how == "domain":
        nodes[place].domain = one(random, ("com.microsoft", "ai.onnx.ml", "evil", "ai.onnx"))
    elif how == "removed":
        del nodes[place]
    elif how == "input" and nodes[place].input:
        nodes[place].input[0] = one(random, ("counts", "nowhere", *nodes[place].output))
    elif how == "attribute":
        nodes[place].attribute.append(helper.make_attribute("alpha", one(random, (1.0, 7, [1.0], "text"))))
    else:
        nodes.append(nodes[place])


def _metadata(model: onnx.ModelProto, random: Random) -> None:
    values: tuple[str, ...] = ("", "[]", "\x1b[2J", "x" * 10_000)
    entry = one(random, model.metadata_props)
    entry.value = one(random, (*values, entry.value.replace("alpha", "beta"), entry.value[::-1]))


def _reach(model: onnx.ModelProto, random: Random) -> None:
    tensor = model.graph.initializer[int(random.integers(len(model.graph.initializer)))]
    location = one(random, ("secret", "../secret", "/etc/passwd", "/dev/zero"))
    outside = TensorProto()
    outside.CopyFrom(tensor)
    outside.ClearField("raw_data")
    onnx.external_data_helper.set_external_data(numpy_helper.from_array(np.zeros(1), "x"), location)
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value=location)
    how = one(random, ("initializer", "attribute", "sparse", "function", "inner"))
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


def _outlet(model: onnx.ModelProto, random: Random) -> None:
    value = one(random, (*model.graph.input, *model.graph.output))
    value.type.tensor_type.elem_type = one(random, (TensorProto.DOUBLE, TensorProto.STRING, TensorProto.INT32, 0, 99))


def _version(model: onnx.ModelProto, random: Random) -> None:
    if random.random() < 0.5:
        model.ir_version = one(random, (0, 1, 99, 2**31))
    else:
        model.opset_import[0].version = one(random, (1, 7, 99))


def _backdoor(model: onnx.ModelProto, random: Random) -> None:
    if any(value.name == "counts" for value in model.graph.input):
        backdoor(model)
    else:
        _weights(model, random)


GRAPHS = (_weights, _weights, _weights, _node, _node, _metadata, _reach, _outlet, _version, _backdoor)


def of_names(files: Files, random: Random) -> Files:
    """Leave a file out, let two change places, or add one."""
    name, other = one(random, sorted(files)), one(random, sorted(files))
    how = one(random, ("missing", "swapped", "extra"))
    if how == "missing":
        return {key: content for key, content in files.items() if key != name}
    if how == "swapped":
        return files | {name: files[other], other: files[name]}
    return files | {one(random, ("extra.bin", "setup.py", "onnx/weights.bin")): b"x"}


def in_place(folder: Path, random: Random) -> None:
    """Put what is no regular file, or a very large one, in place of a file in a folder."""
    name = one(random, sorted(path for path in folder.rglob("*") if path.is_file()))
    how = one(random, ("pipe", "device", "endless", "link", "loop", "folder", "huge", "pipe by link", "unreadable"))
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
    "JSON": of_json,
    "tensor": of_tensor,
    "header of tensors": of_header,
    "graph": of_graph,
    "bytes": of_bytes,
    "files": of_names,
}
