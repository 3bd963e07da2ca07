"""Ways to damage a file of cells, each drawn from a seed: bytes, HDF5 structure, zarr metadata and chunks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Random = np.random.Generator


def _array(group: Any, random: Random, *names: str) -> str:
    """Return the path of one of the arrays whose last name is among some, or of any array."""
    found: list[str] = []
    group.visititems(lambda name, item: found.append(name) if hasattr(item, "shape") else None)
    wanted = [name for name in found if not names or name.rsplit("/", 1)[-1] in names]
    return str(random.choice(sorted(wanted or found)))


def _replaced(group: Any, name: str, values: Any) -> None:
    """Write other values in place of an array, with its attributes."""
    attributes = dict(group[name].attrs)
    del group[name]
    values = np.asarray(values)
    dtype = h5py.string_dtype() if values.dtype.kind in "OU" else None
    item = group.create_dataset(name, data=values.astype(object) if dtype else values, dtype=dtype)
    for key, value in attributes.items():
        item.attrs[key] = value


def _of_sparse(change: Callable[[np.ndarray, Random], np.ndarray], *names: str) -> Callable[[Any, Random], None]:
    def apply(group: Any, random: Random) -> None:
        name = _array(group, random, *names)
        _replaced(group, name, change(group[name][...], random))

    return apply


def _spoiled(values: np.ndarray, random: Random, *wrong: Any) -> np.ndarray:
    """Put a wrong value in one place."""
    spoiled = values.astype(np.asarray(wrong[0]).dtype) if np.asarray(wrong[0]).dtype.kind == "f" else values.copy()
    if len(spoiled):
        spoiled[random.integers(len(spoiled))] = random.choice(wrong)
    return spoiled


def attribute(group: Any, random: Random) -> None:
    """Change or remove an attribute of a group or an array."""
    items = [group]
    group.visititems(lambda _, item: items.append(item))
    items = [item for item in items if len(item.attrs)]
    item = items[random.integers(len(items))]
    key = str(random.choice(sorted(item.attrs)))
    wrong = ["csr_matrix", "no such encoding", 7, -1, np.array([3, 3]), np.array([10**12, 10**12]), "", "0.0.0"]
    if random.random() < 0.3:
        del item.attrs[key]
    else:
        item.attrs[key] = wrong[random.integers(len(wrong))]


def shape(group: Any, random: Random) -> None:
    """State another shape of a sparse matrix."""
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
    """Let two members of a group change places."""
    groups = [item for item in (group, group["obs"], group["var"], group.get("X")) if hasattr(item, "keys")]
    chosen = groups[random.integers(len(groups))]
    one, other = random.choice(sorted(chosen), 2, replace=False)
    chosen.move(one, "between")
    chosen.move(other, one)
    chosen.move("between", other)


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
    """Put a link that leads to itself, to another file or nowhere in place of a member."""
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
    for place in random.integers(len(content), size=random.integers(1, 9)):
        content[place] ^= int(random.integers(1, 256))
    path.write_bytes(content)


def truncated(path: Path, random: Random) -> None:
    """Cut a file short."""
    path.write_bytes(path.read_bytes()[: random.integers(path.stat().st_size)])


def overwritten(path: Path, random: Random) -> None:
    """Overwrite a stretch of a file with zeros or noise."""
    content = bytearray(path.read_bytes())
    start, size = int(random.integers(len(content))), int(random.integers(1, 512))
    noise = random.bytes(size) if random.random() < 0.5 else bytes(size)
    content[start : start + size] = noise[: max(0, len(content) - start)]
    path.write_bytes(content)


def metadata(path: Path, random: Random) -> None:
    """Change a value somewhere in the JSON of a zarr folder."""
    values = json.loads(path.read_text())
    node, places = values, []
    while isinstance(node, dict | list) and node:
        key: Any = random.choice(sorted(node)) if isinstance(node, dict) else int(random.integers(len(node)))
        places.append((node, key))
        node = node[key]
    wrong: list[Any] = [None, -1, 0, 10**15, "nonsense", [], {}, 1.5, "<f8", "|O", "../../etc"]
    if places:
        target, key = places[-1]
        target[key] = wrong[random.integers(len(wrong))]
    path.write_text(json.dumps(values))


def _shuffled(values: np.ndarray, random: Random) -> np.ndarray:
    return random.permutation(values)


# By name: what changes the structure of an open HDF5 file or zarr group, and whether the values of cells may change
# with it in a way that nobody could notice.
STRUCTURE: dict[str, tuple[Callable[[Any, Random], Any], bool]] = {
    "indptr shuffled": (_of_sparse(_shuffled, "indptr"), True),
    "indptr beyond": (_of_sparse(lambda v, r: _spoiled(v, r, 10**9, -1, 2**31 - 1), "indptr"), True),
    "indices beyond": (_of_sparse(lambda v, r: _spoiled(v, r, 10**6, -1, 2**31 - 1), "indices"), True),
    "indices shuffled": (_of_sparse(_shuffled, "indices"), True),
    "values not finite": (_of_sparse(lambda v, r: _spoiled(v, r, np.nan, np.inf, -1.0, 1e300), "data", "X"), True),
    "codes beyond": (_of_sparse(lambda v, r: _spoiled(v, r, 100, -2, 127), "codes"), False),
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
