"""Ways to spoil an answer of the Hub, each drawn from a seed."""

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

from tests.hub_server.answers import Answer

SOURCE = Path(__file__).resolve().parents[1] / "data" / "format_1" / "counts"
REPO = "islets/small"
Random = np.random.Generator
Forger = Callable[[Answer, Random], Answer]

WRONG: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, 2**63, 10**400, "", "x", [], {}, [None], "../../../x", "/etc/passwd", "a\x1b[2J\nb"),
    *("0" * 40, "0" * 64, "0" * 39, "0" * 40 + "\n", "g" * 40, "\ud800", "\u202e", "x" * 100_000, {"a": [[[]]] * 9}),
)
PATHS = (
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
def sound() -> dict[str, bytes]:
    """Return the files that every pull has to bring."""
    return files_of(SOURCE)


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by name; none where there is no folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def one(random: Random, values: tuple[Any, ...] | list[Any]) -> Any:
    return values[int(random.integers(len(values)))]


def of_json(answer: Answer, random: Random) -> Answer:
    """Change, remove or repeat a value somewhere in an answer that is JSON, or bytes in another one."""
    try:
        values = json.loads(answer.body)
    except ValueError:
        return flipped(answer, random)
    node, places = values, list[tuple[Any, Any]]()
    while isinstance(node, dict | list) and node:
        key = one(random, sorted(node) if isinstance(node, dict) else list(range(len(node))))
        places.append((node, key))
        node = node[key]
        if random.random() < 0.15:
            break
    if not places:
        return with_body(answer, b"[]")
    target, key = places[-1]
    draw = random.random()
    if draw < 0.7:
        target[key] = one(random, WRONG)
    elif draw < 0.9:
        del target[key]
    elif isinstance(target, list):
        target.extend([target[key]] * int(random.integers(1, 3000)))
    else:
        target[f"{key} "] = target.pop(key)
    return with_body(answer, json.dumps(values).encode())


def of_names(answer: Answer, random: Random) -> Answer:
    """Call a listed file something else, or list one that is not there."""
    try:
        values = json.loads(answer.body)
        row = dict(one(random, values["siblings"]))
    except (ValueError, KeyError, TypeError):
        return of_json(answer, random)
    row["rfilename"] = one(random, (*PATHS, *NAMES))
    row["size"] = one(random, (row["size"], 0, 2**40, -1))
    values["siblings"].append(row)
    return with_body(answer, json.dumps(values).encode())


def of_hashes(answer: Answer, random: Random) -> Answer:
    """List another hash, size or commit, of the right form or not."""
    try:
        values = json.loads(answer.body)
        row = one(random, values["siblings"])
    except (ValueError, KeyError, TypeError):
        return of_json(answer, random)
    wrong = one(random, ("0" * 40, "f" * 64, "../../../../x", "", None, "0" * 40 + "/../x", "A" * 40))
    kind = one(random, ("blobId", "lfs", "size", "sha", "no lfs"))
    if kind == "lfs" and "lfs" in row:
        row["lfs"] = one(random, ({**row["lfs"], "sha256": wrong}, {**row["lfs"], "size": 1}, wrong, [], {}))
    elif kind == "size":
        row["size"] = one(random, (0, 1, row["size"] + 1, 2**40, -1, None, "1"))
    elif kind == "no lfs" and row.pop("lfs", None):
        pass
    elif kind == "sha":
        values["sha"] = wrong
    else:
        row["blobId"] = wrong
    return with_body(answer, json.dumps(values).encode())


def flipped(answer: Answer, random: Random) -> Answer:
    """Flip some bits of a body."""
    body = bytearray(answer.body)
    for place in random.integers(len(body), size=int(random.integers(1, 9))) if body else ():
        body[place] ^= int(random.integers(1, 256))
    return replace(answer, body=bytes(body))


def truncated(answer: Answer, random: Random) -> Answer:
    """Cut a body short, with or without saying so."""
    body = answer.body[: int(random.integers(len(answer.body) + 1))]
    return with_body(answer, body) if random.random() < 0.5 else replace(answer, body=body)


def other_body(answer: Answer, random: Random) -> Answer:
    """Send something else."""
    bodies = (b"", b"<html>Sign in</html>", b"null", b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe\x00", b"1e999")
    return with_body(answer, one(random, (*bodies, random.bytes(5000))))


def packed(answer: Answer, random: Random) -> Answer:
    """Send a body that unpacks to itself, to a gigabyte, or not at all."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join([packer.compress(bytes(2**20)) for _ in range(256)]) + packer.flush()
    body = one(random, (gzip.compress(answer.body), bomb, answer.body))
    kind = one(random, ("gzip", "deflate", "br", "zstd", "gzip, gzip", "identity, gzip", "\x1b"))
    return with_header(with_body(answer, body), "Content-Encoding", kind)


def endless(answer: Answer, random: Random) -> Answer:
    """Send more than anybody wants, without or with a length."""
    headers = {name: value for name, value in answer.headers.items() if name != "Content-Length"}
    if random.random() < 0.5:
        headers["Content-Length"] = str(10**15)
    return replace(answer, headers=headers, body=answer.body * (1 + 2**20 // (len(answer.body) + 1)), repeat=10**5)


def slow(answer: Answer, random: Random) -> Answer:
    """Send a byte now and then, or nothing."""
    return replace(answer, **one(random, ({"pause": 0.05}, {"pause": 0.3}, {"wait": 60.0})))


def redirected(answer: Answer, random: Random) -> Answer:
    """Lead elsewhere, nowhere, or round and round."""
    targets = ("/", "", "//", "?", "file:///etc/passwd", "http://127.0.0.1:9/", "http://[", "http://a b/", "ftp://x/")
    more = ("https://127.0.0.1:9", "http://0/", "data:,x", "\x1b[2J", "x" * 60_000, "http://127.0.0.1:99999/", "//:x@/")
    kept = {name: value for name, value in answer.headers.items() if name != "Location"}
    status = one(random, (301, 302, 303, 304, 307, 308, 300))
    return with_header(replace(answer, status=status, headers=kept), "Location", one(random, targets + more))


def with_status(answer: Answer, random: Random) -> Answer:
    """Answer with any status, with what the Hub says of errors or something else."""
    codes = ("RepoNotFound", "RevisionNotFound", "EntryNotFound", "GatedRepo", "\x1b[31m", "x" * 9000)
    answer = replace(answer, status=int(one(random, (100, 101, 199, 201, 204, 206, 299, 400, 401, 403, 404, 409, 500))))
    if random.random() < 0.5:
        answer = with_header(answer, "X-Error-Code", one(random, codes))
    message = one(
        random, ("a\tb", "\x1b[2Jgone", "Invalid credentials in Authorization header", "x" * 9000, "é\x85\x9b")
    )
    answer = with_header(answer, "X-Error-Message", message)
    return with_header(answer, "Retry-After", one(random, ("0", "-1", "soon", "²", "9" * 400)))


def headed(answer: Answer, random: Random) -> Answer:
    """Send headers that lie, or are no headers."""
    name = one(
        random, ("ETag", "X-Linked-Etag", "X-Repo-Commit", "X-Linked-Size", "Content-Length", "Link", "X-Xet-Hash")
    )
    value = one(
        random, ('"../../../x"', "/etc/x", "", "-1", "9" * 30, "\x1b[2J", "a\r\nSet-Cookie: b=c", '"' + "0" * 40)
    )
    more = {f"X-{number}": "x" * 100 for number in range(int(one(random, (0, 0, 0, 150, 2000))))}
    kinds: tuple[dict[str, str], ...] = (
        {"Transfer-Encoding": "chunked"},
        {"Set-Cookie": "a=b; Path=/"},
        {"": "x"},
        {"A B": "c"},
        {"X": "y" * 10**6},
        {},
    )
    return replace(answer, headers={**answer.headers, name: value, **more, **one(random, kinds)})


def gone(answer: Answer, random: Random) -> Answer:
    """Send what is no HTTP."""
    return Answer(int(one(random, (0, 99999, -1, 200))), {}, random.bytes(100) if random.random() < 0.5 else b"")


def with_body(answer: Answer, body: bytes) -> Answer:
    return with_header(replace(answer, body=body), "Content-Length", str(len(body)))


def with_header(answer: Answer, name: str, value: str) -> Answer:
    return replace(answer, headers={**answer.headers, name: value})


KINDS: dict[str, Forger] = {
    "value of JSON": of_json,
    "name of a file": of_names,
    "hash, size or commit": of_hashes,
    "bits flipped": flipped,
    "truncated": truncated,
    "another body": other_body,
    "packed": packed,
    "endless": endless,
    "slow": slow,
    "redirect": redirected,
    "status": with_status,
    "headers": headed,
    "no HTTP": gone,
}
