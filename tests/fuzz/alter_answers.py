"""Random alterations of an answer of the Hub."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.hub_server.answers import HubAnswer

SOURCE = Path(__file__).resolve().parents[1] / "data" / "format_1" / "counts"
REPO = "islets/small"
Random = np.random.Generator
Alteration = Callable[[HubAnswer, Random], HubAnswer]

WRONG_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, 2**63, 10**400, "", "x", [], {}, [None], "../../../x", "/etc/passwd", "a\x1b[2J\nb"),
    *("0" * 40, "0" * 64, "0" * 39, "0" * 40 + "\n", "g" * 40, "\ud800", "\u202e", "x" * 100_000, {"a": [[[]]] * 9}),
)
WRONG_PATHS = (
    "../../../x",
    "..",
    "/etc/x",
    "a/../../../../x",
    "\\..\\x",
    "con\x00",
    "x" * 5000,
    "\x1b]0;x\x07",
    "%2e%2e%2fx",
)
NAMES = ("manifest.json", "config.json", "labels.json", "model.safetensors", "onnx/model.onnx", "../manifest.json")


@cache
def reference_files() -> dict[str, bytes]:
    """Return the files of the reference that tests put on the Hub."""
    return files_of(SOURCE)


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the bytes of the files of a folder by path; empty if the folder does not exist."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def choice(random: Random, values: tuple[Any, ...] | list[Any]) -> Any:
    return values[int(random.integers(len(values)))]


def altered_json(answer: HubAnswer, random: Random) -> HubAnswer:
    """Change, remove or repeat a random value of a JSON answer; flip bits of other answers."""
    try:
        values = json.loads(answer.body)
    except ValueError:
        return flipped(answer, random)
    node, path = values, list[tuple[Any, Any]]()
    while isinstance(node, dict | list) and node:
        key = choice(random, sorted(node) if isinstance(node, dict) else list(range(len(node))))
        path.append((node, key))
        node = node[key]
        if random.random() < 0.15:
            break
    if not path:
        return with_body(answer, b"[]")
    target, key = path[-1]
    draw = random.random()
    if draw < 0.7:
        target[key] = choice(random, WRONG_VALUES)
    elif draw < 0.9:
        del target[key]
    elif isinstance(target, list):
        target.extend([target[key]] * int(random.integers(1, 3000)))
    else:
        target[f"{key} "] = target.pop(key)
    return with_body(answer, json.dumps(values).encode())


def altered_name(answer: HubAnswer, random: Random) -> HubAnswer:
    """Add a file to the listing, with the hash of an existing file and another name or size."""
    try:
        values = json.loads(answer.body)
        row = dict(choice(random, values["siblings"]))
    except (ValueError, KeyError, TypeError):
        return altered_json(answer, random)
    row["rfilename"] = choice(random, (*WRONG_PATHS, *NAMES))
    row["size"] = choice(random, (row["size"], 0, 2**40, -1))
    values["siblings"].append(row)
    return with_body(answer, json.dumps(values).encode())


def altered_hash(answer: HubAnswer, random: Random) -> HubAnswer:
    """Change a listed hash, size or commit to a well-formed or malformed value."""
    try:
        values = json.loads(answer.body)
        row = choice(random, values["siblings"])
    except (ValueError, KeyError, TypeError):
        return altered_json(answer, random)
    value = choice(random, ("0" * 40, "f" * 64, "../../../../x", "", None, "0" * 40 + "/../x", "A" * 40))
    kind = choice(random, ("blobId", "lfs", "size", "sha", "no lfs"))
    if kind == "lfs" and "lfs" in row:
        row["lfs"] = choice(random, ({**row["lfs"], "sha256": value}, {**row["lfs"], "size": 1}, value, [], {}))
    elif kind == "size":
        row["size"] = choice(random, (0, 1, row["size"] + 1, 2**40, -1, None, "1"))
    elif kind == "no lfs" and row.pop("lfs", None):
        pass
    elif kind == "sha":
        values["sha"] = value
    else:
        row["blobId"] = value
    return with_body(answer, json.dumps(values).encode())


def flipped(answer: HubAnswer, random: Random) -> HubAnswer:
    """Flip bits in up to eight bytes of the body."""
    body = bytearray(answer.body)
    for position in random.integers(len(body), size=int(random.integers(1, 9))) if body else ():
        body[position] ^= int(random.integers(1, 256))
    return replace(answer, body=bytes(body))


def truncated(answer: HubAnswer, random: Random) -> HubAnswer:
    """Truncate the body, with the right or the old Content-Length."""
    body = answer.body[: int(random.integers(len(answer.body) + 1))]
    return with_body(answer, body) if random.random() < 0.5 else replace(answer, body=body)


def other_body(answer: HubAnswer, random: Random) -> HubAnswer:
    """Replace the body by an empty, malformed or random body."""
    bodies = (b"", b"<html>Sign in</html>", b"null", b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe\x00", b"1e999")
    return with_body(answer, choice(random, (*bodies, random.bytes(5000))))


def packed(answer: HubAnswer, random: Random) -> HubAnswer:
    """Send a compressed body, a compression bomb of 256 MiB, or a body that is not compressed as stated."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join([packer.compress(bytes(2**20)) for _ in range(256)]) + packer.flush()
    body = choice(random, (gzip.compress(answer.body), bomb, answer.body))
    kind = choice(random, ("gzip", "deflate", "br", "zstd", "gzip, gzip", "identity, gzip", "\x1b"))
    return with_header(with_body(answer, body), "Content-Encoding", kind)


def endless(answer: HubAnswer, random: Random) -> HubAnswer:
    """Repeat the body to about 100 GB, without a length or with a stated length of 10^15 bytes."""
    headers = {name: value for name, value in answer.headers.items() if name != "Content-Length"}
    if random.random() < 0.5:
        headers["Content-Length"] = str(10**15)
    return replace(answer, headers=headers, body=answer.body * (1 + 2**20 // (len(answer.body) + 1)), repeat=10**5)


def slow(answer: HubAnswer, random: Random) -> HubAnswer:
    """Pause after each byte, or wait 60 s before the answer."""
    return replace(answer, **choice(random, ({"pause": 0.05}, {"pause": 0.3}, {"wait": 60.0})))


def redirected(answer: HubAnswer, random: Random) -> HubAnswer:
    """Redirect to another address, an invalid address or the same address."""
    targets = ("/", "", "//", "?", "file:///etc/passwd", "http://127.0.0.1:9/", "http://[", "http://a b/", "ftp://x/")
    more = ("https://127.0.0.1:9", "http://0/", "data:,x", "\x1b[2J", "x" * 60_000, "http://127.0.0.1:99999/", "//:x@/")
    kept = {name: value for name, value in answer.headers.items() if name != "Location"}
    status = choice(random, (301, 302, 303, 304, 307, 308, 300))
    return with_header(replace(answer, status=status, headers=kept), "Location", choice(random, targets + more))


def with_status(answer: HubAnswer, random: Random) -> HubAnswer:
    """Answer with another status, and valid or invalid error headers of the Hub."""
    codes = ("RepoNotFound", "RevisionNotFound", "EntryNotFound", "GatedRepo", "\x1b[31m", "x" * 9000)
    answer = replace(
        answer, status=int(choice(random, (100, 101, 199, 201, 204, 206, 299, 400, 401, 403, 404, 409, 500)))
    )
    if random.random() < 0.5:
        answer = with_header(answer, "X-Error-Code", choice(random, codes))
    message = choice(
        random, ("a\tb", "\x1b[2Jgone", "Invalid credentials in Authorization header", "x" * 9000, "é\x85\x9b")
    )
    answer = with_header(answer, "X-Error-Message", message)
    return with_header(answer, "Retry-After", choice(random, ("0", "-1", "soon", "²", "9" * 400)))


def headed(answer: HubAnswer, random: Random) -> HubAnswer:
    """Add wrong, malformed or too many headers."""
    name = choice(
        random, ("ETag", "X-Linked-Etag", "X-Repo-Commit", "X-Linked-Size", "Content-Length", "Link", "X-Xet-Hash")
    )
    value = choice(
        random, ('"../../../x"', "/etc/x", "", "-1", "9" * 30, "\x1b[2J", "a\r\nSet-Cookie: b=c", '"' + "0" * 40)
    )
    more = {f"X-{number}": "x" * 100 for number in range(int(choice(random, (0, 0, 0, 150, 2000))))}
    kinds: tuple[dict[str, str], ...] = (
        {"Transfer-Encoding": "chunked"},
        {"Set-Cookie": "a=b; Path=/"},
        {"": "x"},
        {"A B": "c"},
        {"X": "y" * 10**6},
        {},
    )
    return replace(answer, headers={**answer.headers, name: value, **more, **choice(random, kinds)})


def no_http(answer: HubAnswer, random: Random) -> HubAnswer:
    """Send random bytes or an invalid status instead of HTTP."""
    return HubAnswer(int(choice(random, (0, 99999, -1, 200))), {}, random.bytes(100) if random.random() < 0.5 else b"")


def with_body(answer: HubAnswer, body: bytes) -> HubAnswer:
    return with_header(replace(answer, body=body), "Content-Length", str(len(body)))


def with_header(answer: HubAnswer, name: str, value: str) -> HubAnswer:
    return replace(answer, headers={**answer.headers, name: value})


KINDS: dict[str, Alteration] = {
    "value of JSON": altered_json,
    "name of a file": altered_name,
    "hash, size or commit": altered_hash,
    "bits flipped": flipped,
    "truncated": truncated,
    "another body": other_body,
    "packed": packed,
    "endless": endless,
    "slow": slow,
    "redirect": redirected,
    "status": with_status,
    "headers": headed,
    "no HTTP": no_http,
}
