"""Read arrays of HDF5 files that are compressed with gzip, faster than the HDF5 library decompresses them.

The compressed chunks are read without the HDF5 library's decompression. libdeflate decompresses the chunks, or zlib
where the package ``deflate`` is not installed. Both libraries write at most the bytes that a chunk declares.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from itertools import product
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

# Smallest and largest size in bytes of chunks that are read here. The HDF5 library reads smaller chunks as fast, and
# larger chunks with less memory.
LEAST_CHUNK, LARGEST_CHUNK = 8 * 1024, 64 * 1024 * 1024
# Largest chunk in bytes that is kept after a read, because the next read may need the rest of the chunk.
KEPT_CHUNK = 8 * 1024 * 1024
# Upper bound of compressed sizes: gzip enlarges random bytes by less than this factor, and adds some bytes of headers.
LARGEST_GROWTH, HEADERS = 1.01, 1024


def fast_array(array: Any) -> Any:
    """Return a :class:`GzipArray` of a stored array if that class can read the array; otherwise the array itself."""
    return GzipArray(array) if isinstance(array, h5py.Dataset) and _is_supported(array) else array


class GzipArray:
    """An array of an HDF5 file whose chunks are compressed with gzip, with or without the shuffle filter.

    Attributes
    ----------
    shape, chunks, dtype, size
        The same as those of the HDF5 array.
    """

    def __init__(self, array: Any) -> None:
        self.shape, self.chunks, self.dtype, self.size = array.shape, array.chunks, array.dtype, array.size
        self._array = array
        self._shuffled = bool(array.shuffle)
        self._decompress = _decompressor()
        self._bytes = math.prod(self.chunks) * self.dtype.itemsize
        self._compressed = np.empty(int(self._bytes * LARGEST_GROWTH) + HEADERS, dtype=np.uint8)
        self._last: tuple[tuple[int, ...], npt.NDArray[Any]] | None = None

    def __getitem__(self, index: slice | tuple[slice, ...]) -> npt.NDArray[Any]:
        """Return a part of the array; ``index`` holds slices with a step of 1 for the first dimensions."""
        slices = index if isinstance(index, tuple) else (index,)
        slices += (slice(None),) * (len(self.shape) - len(slices))
        bounds = [part.indices(size)[:2] for part, size in zip(slices, self.shape, strict=True)]
        numbers = [
            range(start // chunk, -(-stop // chunk) if stop > start else start // chunk)
            for (start, stop), chunk in zip(bounds, self.chunks, strict=True)
        ]
        part = np.empty([max(0, stop - start) for start, stop in bounds], dtype=self.dtype)
        for position in product(*numbers):
            target, source = [], []
            for number, chunk, (start, stop) in zip(position, self.chunks, bounds, strict=True):
                first, last = max(start, number * chunk), min(stop, (number + 1) * chunk)
                target.append(slice(first - start, last - start))
                source.append(slice(first - number * chunk, last - number * chunk))
            chunk_values = self._chunk(position)
            if part.shape == self.chunks and chunk_values.flags.writeable:
                # The caller may change the returned values, so the chunk is not kept.
                self._last = None
                return chunk_values
            part[tuple(target)] = chunk_values[tuple(source)]
        return part

    def _chunk(self, position: tuple[int, ...]) -> npt.NDArray[Any]:
        """Return the values of a chunk; values beyond the end of the array have no meaning."""
        if self._last is not None and self._last[0] == position:
            return self._last[1]
        offset = tuple(number * chunk for number, chunk in zip(position, self.chunks, strict=True))
        values = self._decompressed(offset)
        if self._bytes <= KEPT_CHUNK:
            self._last = position, values
        return values

    def _decompressed(self, offset: tuple[int, ...]) -> npt.NDArray[Any]:
        try:
            mask, compressed = self._array.id.read_direct_chunk(offset, out=self._compressed)
        except (OSError, RuntimeError, ValueError):
            if self._array.id.get_chunk_info_by_coord(offset).size > len(self._compressed):
                raise self._damage(offset) from None
            return self._by_hdf5(offset)
        if mask:
            return self._by_hdf5(offset)
        content = self._decompress(compressed, self._bytes)
        if content is None or len(content) != self._bytes:
            raise self._damage(offset)
        flat = np.frombuffer(content, dtype=np.uint8)
        if self._shuffled:
            flat = np.ascontiguousarray(flat.reshape(self.dtype.itemsize, -1).T)
        return np.asarray(flat.view(self.dtype).reshape(self.chunks))

    def _by_hdf5(self, offset: tuple[int, ...]) -> npt.NDArray[Any]:
        """Let the HDF5 library read a chunk that is missing, or was stored without compression."""
        values = np.zeros(self.chunks, dtype=self.dtype)
        ends = (start + size for start, size in zip(offset, self.chunks, strict=True))
        stored = self._array[tuple(map(slice, offset, ends))]
        values[tuple(map(slice, stored.shape))] = stored
        return values

    def _damage(self, offset: tuple[int, ...]) -> ValueError:
        return ValueError(f"Error while decompressing the chunk at {offset}; expected {self._bytes} bytes")


def _is_supported(array: Any) -> bool:
    """Return True for an array of numbers in chunks of suitable size, with no other filters than shuffle and gzip."""
    if array.compression != "gzip" or array.dtype.kind not in "iuf":
        return False
    if not LEAST_CHUNK <= math.prod(array.chunks) * array.dtype.itemsize <= LARGEST_CHUNK:
        return False
    # Only the HDF5 library can convert numbers of unusual width.
    if array.id.get_type() != h5py.h5t.py_create(array.dtype):
        return False
    properties = array.id.get_create_plist()
    filters = [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]
    return filters in ([h5py.h5z.FILTER_DEFLATE], [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE])


def _decompressor() -> Callable[[Any, int], bytes | bytearray | None]:
    """Return a function that decompresses bytes up to a given size; the function returns None for damaged bytes."""
    try:
        import deflate
    except ImportError:
        return _by_zlib

    def by_libdeflate(compressed: Any, size: int) -> bytearray | None:
        try:
            return deflate.zlib_decompress(compressed, size)
        except deflate.DeflateError:
            return None

    return by_libdeflate


def _by_zlib(compressed: Any, size: int) -> bytes | None:
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(compressed, size + 1)
    except zlib.error:
        return None
    return content if stream.eof else None
