"""Random damage to a file of cells: bytes, HDF5 structure, zarr metadata and chunks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Random = np.random.Generator


def _array(group: Any, random: Random, *names: str) -> str:
    """Return the path of a random array whose name is in ``names``, or of any array if no array has such a name."""
    arrays: list[str] = []
    group.visititems(lambda name, item: arrays.append(name) if hasattr(item, "shape") else None)
    matches = [name for name in arrays if not names or name.rsplit("/", 1)[-1] in names]
    return str(random.choice(sorted(matches or arrays)))


def _replaced(group: Any, name: str, values: Any) -> None:
    """Replace the values of an array and keep its attributes."""
    attributes = dict(group[name].attrs)
    del group[name]
    values = np.asarray(values)
    dtype = h5py.string_dtype() if values.dtype.kind in "OU" else None
    item = group.create_dataset(name, data=values.astype(object) if dtype else values, dtype=dtype)
    for key, value in attributes.items():
        item.attrs[key] = value


def _changing(change: Callable[[np.ndarray, Random], np.ndarray], *names: str) -> Callable[[Any, Random], None]:
    def apply(group: Any, random: Random) -> None:
        name = _array(group, random, *names)
        _replaced(group, name, change(group[name][...], random))

    return apply


def _with_wrong_value(values: np.ndarray, random: Random, *wrong_values: Any) -> np.ndarray:
    """Replace one random value by a wrong value."""
    changed = (
        values.astype(np.asarray(wrong_values[0]).dtype)
        if np.asarray(wrong_values[0]).dtype.kind == "f"
        else values.copy()
    )
    if len(changed):
        changed[random.integers(len(changed))] = random.choice(wrong_values)
    return changed


def attribute(group: Any, random: Random) -> None:
    """Change or remove an attribute of a group or an array."""
    items = [group]
    group.visititems(lambda _, item: items.append(item))
    items = [item for item in items if len(item.attrs)]
    item = items[random.integers(len(items))]
    key = str(random.choice(sorted(item.attrs)))
    wrong_values = ["csr_matrix", "no such encoding", 7, -1, np.array([3, 3]), np.array([10**12, 10**12]), "", "0.0.0"]
    if random.random() < 0.3:
        del item.attrs[key]
    else:
        item.attrs[key] = wrong_values[random.integers(len(wrong_values))]


def shape(group: Any, random: Random) -> None:
    """Change the shape attribute of a sparse matrix."""
    names = [name for name in ("X", "layers/counts", "raw/X") if name in group and "shape" in group[name].attrs]
    if not names:
        return attribute(group, random)
    shapes = [[10**9, 10**9], [120, 1], [1, 1200], [-1, 5], [119, 1200], [121, 1201], [2**62, 4], [0, 0]]
    group[str(random.choice(names))].attrs["shape"] = np.array(shapes[random.integers(len(shapes))])
    return None


def removed(group: Any, random: Random) -> None:
    """Remove a group or an array."""
    names: list[str] = []
    group.visititems(lambda name, _: names.append(name))
    del group[str(random.choice(sorted(names)))]


def swapped(group: Any, random: Random) -> None:
    """Swap the names of two members of a group."""
    groups = [item for item in (group, group["obs"], group["var"], group.get("X")) if hasattr(item, "keys")]
    chosen = groups[random.integers(len(groups))]
    first, second = random.choice(sorted(chosen), 2, replace=False)
    chosen.move(first, "between")
    chosen.move(second, first)
    chosen.move("between", second)


def other_type(group: Any, random: Random) -> None:
    """Store an array with values of another type."""
    name = _array(group, random)
    size = group[name].shape
    kinds = (np.complex64, np.bool_, np.int8, np.float16, np.uint64, object)
    kind = kinds[random.integers(len(kinds))]
    _replaced(group, name, np.full(size, "text", object) if kind is object else np.ones(size, dtype=kind))


def other_length(group: Any, random: Random) -> None:
    """Store an array with more or fewer values."""
    name = _array(group, random)
    values = group[name][...]
    if values.ndim == 0:
        return removed(group, random)
    more = np.concatenate([values, values[:3]])
    _replaced(group, name, [values[:-1], values[:0], more][random.integers(3)])
    return None


def links(group: h5py.Group, random: Random) -> None:
    """Replace a member by a link to itself, to another file, to the root or to a missing path."""
    name = str(random.choice(["X", "obs", "var", "uns", "obs/_index", "var/_index"]))
    if name in group:
        del group[name]
    outside = h5py.ExternalLink(Path(group.file.filename).with_name("secret.h5").name, "/X")
    group[name] = [h5py.SoftLink(f"/{name}"), outside, h5py.SoftLink("/nowhere"), h5py.SoftLink("/")][
        random.integers(4)
    ]


def flipped(path: Path, random: Random) -> None:
    """Flip some bytes of a file."""
    content = bytearray(path.read_bytes())
    for position in random.integers(len(content), size=random.integers(1, 9)):
        content[position] ^= int(random.integers(1, 256))
    path.write_bytes(content)


def truncated(path: Path, random: Random) -> None:
    """Truncate a file."""
    path.write_bytes(path.read_bytes()[: random.integers(path.stat().st_size)])


def overwritten(path: Path, random: Random) -> None:
    """Overwrite up to 511 bytes of a file with zeros or noise."""
    content = bytearray(path.read_bytes())
    start, size = int(random.integers(len(content))), int(random.integers(1, 512))
    noise = random.bytes(size) if random.random() < 0.5 else bytes(size)
    content[start : start + size] = noise[: max(0, len(content) - start)]
    path.write_bytes(content)


def metadata(path: Path, random: Random) -> None:
    """Change a random value in a JSON file of a zarr folder."""
    values = json.loads(path.read_text())
    node, path_in_json = values, []
    while isinstance(node, dict | list) and node:
        key: Any = random.choice(sorted(node)) if isinstance(node, dict) else int(random.integers(len(node)))
        path_in_json.append((node, key))
        node = node[key]
    wrong_values: list[Any] = [None, -1, 0, 10**15, "nonsense", [], {}, 1.5, "<f8", "|O", "../../etc"]
    if path_in_json:
        target, key = path_in_json[-1]
        target[key] = wrong_values[random.integers(len(wrong_values))]
    path.write_text(json.dumps(values))


def _shuffled(values: np.ndarray, random: Random) -> np.ndarray:
    return random.permutation(values)


# Kinds of damage to the structure of an open HDF5 file or zarr group. Each has a function that causes the damage, and
# True if the damage can change expression values without an error.
STRUCTURE: dict[str, tuple[Callable[[Any, Random], Any], bool]] = {
    "indptr shuffled": (_changing(_shuffled, "indptr"), True),
    "indptr beyond": (_changing(lambda v, r: _with_wrong_value(v, r, 10**9, -1, 2**31 - 1), "indptr"), True),
    "indices beyond": (_changing(lambda v, r: _with_wrong_value(v, r, 10**6, -1, 2**31 - 1), "indices"), True),
    "indices shuffled": (_changing(_shuffled, "indices"), True),
    "values not finite": (
        _changing(lambda v, r: _with_wrong_value(v, r, np.nan, np.inf, -1.0, 1e300), "data", "X"),
        True,
    ),
    "codes beyond": (_changing(lambda v, r: _with_wrong_value(v, r, 100, -2, 127), "codes"), False),
    "attribute": (attribute, True),
    "shape": (shape, True),
    "removed": (removed, True),
    "swapped": (swapped, True),
    "other type": (other_type, True),
    "other length": (other_length, True),
}
BYTES: dict[str, Callable[[Path, Random], None]] = {
    "bytes flipped": flipped,
    "truncated": truncated,
    "overwritten": overwritten,
}
