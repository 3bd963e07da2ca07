"""Ways to forge a recipe, a file of a study and an scGPT checkpoint, each drawn from a seed."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from anndata import AnnData

from mirror import pancreas
from spikgpt.embedding.vocabulary import CLS, END
from spikgpt.engines.scgpt.checkpoint import ARGS, UPSTREAM_WEIGHTS, VOCABULARY, WEIGHTS, Checkpoint, save_checkpoint
from spikgpt.engines.scgpt.encoder import ScGPTConfig, ScGPTEncoder
from tests.fuzz.answers import one
from tests.spikgpt_recipes.conftest import write_recipe
from tests.spikgpt_recipes.readers.test_archives import sparse, with_header
from tests.spikgpt_recipes.study_files import LAYOUTS, packed, tar, zipped

Random = np.random.Generator

NAMES = (
    "..",
    "../x",
    "/etc/passwd",
    "a/../../b",
    "~",
    "CON",
    "a\0b",
    "x" * 5000,
    ".x",
    "",
    "a\\..\\b",
    "\u202e",
    "a\nb",
)
WRONG: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, 2**31, 2**63, 10**30, 10**400, float("inf"), float("nan"), "", [], {}, [None], {"a": {}}),
    *NAMES,
    *(
        "(a+)+$",
        "(.*)*x",
        "(",
        "[" * 50,
        "(?P<a>.)(?P<a>.)",
        "((((((a*)*)*)*)*)*)*b",
        ".*" * 20 + "x",
        "\\" * 9,
        "(?=a)",
    ),
    *("http://[", "https://x/y z", "file:///etc/passwd", "ftp://a/b", "CL:0000171", "CL:9999999", "\x1b[2J", "null"),
)
# Text of a recipe that is no plain tree of values.
TEXTS = (
    "seed: &a [1, 2]\nx: [*a, *a]",
    "x: &a [&b [&c [1]]]\ny: [*a, *b, *c]",
    "seed: " + "[" * 30_000,
    "seed: " + "{a: " * 9000,
    "seed: 1" + ":1" * 90_000,
    "seed: 0b" + "1" * 200_000,
    "seed: !!python/object/apply:os.system [touch owned]",
    "seed: !!binary abc",
    "seed: 2001-99-99",
    "seed: !!set {a, b}",
    "? [a]\n: 1",
    "<<: {seed: 1}",
    "seed: 1\nseed: 2",
    "%YAML 9.9\n---\nseed: 0",
    "seed: \u2028",
    "--- 1\n--- 2",
    "\ufeffseed: 0",
    "seed: 1e999999999",
)


# Fields of a table, and JSON files of a checkpoint.
WORDS = (
    *(b"-1", b"nan", b"1e999", b"9" * 400, b'"', b"", b"\0", b"x" * 300_000, b"\t" * 90_000, b"," * 90_000),
    *(b"\xff\xfe", b"2147483648", b"99999999999", b"1_0", b"inf", b"../../x", b"0"),
)
JSONS = (
    *(b"", b"[" * 100_000, b"\xff", b'{"a":' * 50_000, b"1e999", b'{"nlayers": 1' + b"0" * 5000, b"null"),
    *(b" " * 2**21, b"NaN", b'{"\\ud800": 0}'),
)


class Sound:
    """A sound recipe, its mirror, the files of studies and a checkpoint."""

    folders = ("kind", "recipe", "mirror", "cache", "out", "files", "checkpoint", "secret")

    def __init__(self, cells: AnnData, folder: Path) -> None:
        self.recipe = (write_recipe(folder / "sound") / "recipe.yaml").read_text()
        pancreas(cells, folder / "mirror")
        self.archive = (folder / "mirror" / "GSE84133" / "GSE84133_RAW.tar").read_bytes()
        few = cells[:40, :60].copy()
        self.studies = {name: layout(few) for name, layout in LAYOUTS.items()}
        config = ScGPTConfig(dim=16, heads=2, hidden=16, layers=2)
        tokens = (*few.var_names[:20], config.pad_token, CLS, END)
        self.vocabulary = {token: index for index, token in enumerate(tokens)}
        network = ScGPTEncoder(config, len(tokens), self.vocabulary[config.pad_token])
        self.checkpoint = Checkpoint(config, self.vocabulary, dict(network.state_dict()))


def leaf_of(values: Any, random: Random) -> tuple[Any, Any]:
    """Return a list or mapping somewhere in some values, and a place in it."""
    node, place = values, None
    while isinstance(node, dict | list) and node:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        place = node, one(random, keys)
        node = node[place[1]]
        if random.random() < 0.1:
            break
    assert place is not None
    return place


def changed(values: Any, random: Random) -> None:
    """Change, remove, repeat or rename a value somewhere."""
    node, key = leaf_of(values, random)
    draw = random.random()
    if draw < 0.7:
        node[key] = one(random, WRONG)
    elif draw < 0.8:
        del node[key]
    elif isinstance(node, list):
        node.extend([node[key]] * int(random.integers(1, 300)))
    else:
        node[str(one(random, WRONG))] = node.pop(key)


def recipe(sound: Sound, path: Path, random: Random) -> str:
    """Write a forged recipe, with its mirror."""
    (path / "kind").write_text("recipe")
    (path / "recipe").mkdir()
    (path / "mirror" / "GSE84133").mkdir(parents=True)
    (path / "mirror" / "GSE84133" / "GSE84133_RAW.tar").write_bytes(sound.archive)
    (path / "secret").write_bytes(b"secret")
    text, card = sound.recipe, path / "recipe" / "card.md"
    card.write_text("## Intended use\n\nTests.\n")
    kind = one(random, ("sound", "value", "value", "value", "name", "name", "pattern", "text", "bytes", "file"))
    values = yaml.safe_load(text)
    source = one(random, values["sources"])
    if kind == "value":
        for _ in range(int(random.integers(1, 3))):
            changed(values, random)
    elif kind == "name":
        target, key = one(
            random, ((source, "accession"), (source, "study"), (source["files"][0], "name"), (values, "card"))
        )
        target[key] = one(random, NAMES)
    elif kind == "pattern":
        reader = source["files"][0]["reader"]
        pattern = one(
            random, ("(a|a)*b", "(.*)*x", "(G*)*(S*)*$", "(.+)+,", ".*" * 30, "(\\w+\\s?)*x", "((a{1,99}){1,99}){1,99}")
        )
        target, key = one(random, ((reader, "members"), (reader["reader"], "name_pattern")))
        target[key] = pattern
        source["patterns"] = {pattern: None}
    if kind in ("value", "name", "pattern"):
        text = yaml.safe_dump(values, allow_unicode=bool(random.random() < 0.5))
    elif kind == "text":
        text = text.replace("seed: 3", one(random, TEXTS))
    elif kind == "bytes":
        place = int(random.integers(len(text)))
        text = text[:place] + one(random, ("\0", "\x1b", "{", "- ", "\t", "&a ", "*a ", "!!x ", "'" * 3)) + text[place:]
    (path / "recipe" / "recipe.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    if kind == "file":
        target = one(random, (card, path / "recipe" / "recipe.yaml"))
        target.unlink()
        act: Callable[[], object] = one(
            random,
            (
                lambda: target.symlink_to(path / "secret"),
                lambda: target.symlink_to("/dev/zero"),
                lambda: target.symlink_to(target.name),
                lambda: os.mkfifo(target),
                target.mkdir,
                lambda: target.write_bytes(bytes(2**24)),
                lambda: target.write_bytes(b"\xff\xfe" * 50),
            ),
        )
        act()
    return str(kind)


def bomb(unit: bytes, times: int) -> bytes:
    """Return some bytes many times, packed."""
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1, mtime=0) as stream:
        for _ in range(times):
            stream.write(unit * (2**20 // len(unit)))
    return file.getvalue()


def of_text(text: bytes, random: Random) -> bytes:
    """Damage a table, a list or a matrix where its structure is."""
    lines = text.split(b"\n")
    place = int(random.integers(max(1, min(len(lines), 6))))
    words = lines[place].replace(b"\t", b" ").replace(b",", b" ").split()
    word = one(random, words) if words else b""
    new = one(random, WORDS)
    draw = random.random()
    if draw < 0.5:
        lines[place] = lines[place].replace(word, new, 1) if word else new
    elif draw < 0.6:
        lines[place] = b'"' + lines[place]
    elif draw < 0.7:
        lines = lines[:place] + [b"%" * 70_000] + lines[place:]
    elif draw < 0.8:
        lines = lines * int(random.integers(2, 50))
    elif draw < 0.9:
        del lines[place]
    else:
        lines.insert(
            place, one(random, (lines[-2] if len(lines) > 1 else b"", b"%%MatrixMarket matrix array real general", b""))
        )
    return b"\n".join(lines)


def damaged(content: bytes, random: Random) -> tuple[str, bytes]:
    """Damage a file at some depth: its packing, its members, or the text inside."""
    draw = random.random()
    if draw < 0.08:
        array = bytearray(content)
        for place in random.integers(len(array), size=int(random.integers(1, 9))):
            array[place] ^= int(random.integers(1, 256))
        return "bits flipped", bytes(array)
    if draw < 0.14:
        return "truncated", content[: int(random.integers(len(content)))]
    if draw < 0.2:
        unit = one(random, (b"\0", b"0\n", b"0,", b"1 1 1\n", b'"', b"a\tb\n", b"\t", b"x" * 1024 + b"\n", b"%\n"))
        begin = content if random.random() < 0.5 and content[:2] == b"\x1f\x8b" else b""
        return "bomb", begin + bomb(unit, int(one(random, (80, 300))))
    if content[:2] == b"\x1f\x8b":
        kind, inner = damaged(gzip.decompress(content), random)
        return kind, packed(inner)
    if content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        kind, members = of_members(members, random)
        return kind, zipped(members)
    if tarfile.is_tarfile(io.BytesIO(content)):
        return of_tar(content, random)
    return "text", of_text(content, random)


def of_tar(content: bytes, random: Random) -> tuple[str, bytes]:
    """Damage a tar archive, or a member of it."""
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = {one.name: archive.extractfile(one).read() for one in archive.getmembers()}  # type: ignore[union-attr]
    draw = random.random()
    name = one(random, sorted(members))
    if draw < 0.1:
        return "sparse member", sparse(int(one(random, (8 * 1024**4, 2**40, 5)))).replace(b"a.csv", name.encode()[:90])
    if draw < 0.2:
        header = one(
            random, (b"9" * 60_000, bytes(2**20), b"30 path=../../../x\n", b"%d size=99999999999\n" % 20, b"x" * 99)
        )
        return "header", with_header(header)
    if draw < 0.3:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as archive:
            link = tarfile.TarInfo(name)
            link.type = one(
                random, (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE)
            )
            link.linkname = one(random, ("/etc/passwd", name, "../../x"))
            archive.addfile(link)
        return "link", file.getvalue()
    if draw < 0.35:
        return "many members", tar({f"{number}": b"" for number in range(5000)} | members)
    kind, members = of_members(members, random)
    return kind, tar(members, one(random, ("w", "w", "w:gz", "w:bz2", "w:xz")))


def of_members(members: dict[str, bytes], random: Random) -> tuple[str, dict[str, bytes]]:
    """Rename a member, or damage it."""
    name = one(random, sorted(members))
    if random.random() < 0.2:
        new = one(random, NAMES).replace("\0", "") or "x"
        return "name of a member", {new if key == name else key: content for key, content in members.items()}
    kind, content = damaged(members[name], random)
    return f"{kind} of a member", members | {name: content}


def study(sound: Sound, path: Path, random: Random) -> str:
    """Write the files of a study, one of them damaged."""
    name = one(random, sorted(sound.studies))
    (path / "kind").write_text(f"study {name}")
    (path / "files").mkdir()
    files = dict(sound.studies[name])
    target = one(random, sorted(files))
    kind, files[target] = damaged(files[target], random)
    for file, content in files.items():
        (path / "files" / file).write_bytes(content)
    return kind


def of_tensor(weights: dict[str, Any], random: Random) -> None:
    """Change a tensor: what it states, holds or is called."""
    name = one(random, sorted(weights))
    tensor = weights[name]
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: torch.ones(1).expand(2**38),
        lambda: torch.ones(1).as_strided(tuple(tensor.shape), (0,) * tensor.ndim),
        lambda: torch.empty(2**38, device="meta"),
        lambda: tensor.to_sparse() if tensor.ndim else tensor,
        lambda: tensor.to(one(random, (torch.int64, torch.float16, torch.complex64, torch.bool, torch.float8_e4m3fn))),
        lambda: tensor * float("nan"),
        lambda: tensor[..., :0],
        lambda: tensor.new_zeros((3,) * 9),
        lambda: [1, 2],
        lambda: {"a": tensor},
        lambda: None,
    )
    draw = random.random()
    if draw < 0.7:
        weights[name] = one(random, kinds)()
    elif draw < 0.8:
        del weights[name]
    elif draw < 0.9:
        weights[f"{name}{one(random, ('', '.x', '/..'))}x"] = tensor
    else:
        weights |= {f"transformer_encoder.layers.{number}.x": tensor for number in range(3000)}


def checkpoint(sound: Sound, path: Path, random: Random) -> str:
    """Write a forged checkpoint."""
    (path / "kind").write_text("checkpoint")
    folder = save_checkpoint(sound.checkpoint, path / "checkpoint", upstream=bool(random.random() < 0.7))
    kind = one(random, ("args", "args", "vocabulary", "tensor", "tensor", "archive", "bytes", "text"))
    file = folder / UPSTREAM_WEIGHTS if (folder / UPSTREAM_WEIGHTS).exists() else folder / WEIGHTS
    if kind in ("args", "vocabulary"):
        target = folder / (ARGS if kind == "args" else VOCABULARY)
        values = json.loads(target.read_text())
        changed(values, random)
        if kind == "args" and random.random() < 0.6:
            key = one(random, sorted(set(sound.checkpoint.config.to_args())))
            values[key] = one(random, (10_000_000, 2**40, 10**30, 0, -1, 3, 64, 1e308, "2", None, [1]))
        target.write_text(json.dumps(values))
    elif kind == "tensor":
        weights = dict(sound.checkpoint.weights)
        of_tensor(weights, random)
        (folder / WEIGHTS).unlink(missing_ok=True)
        torch.save(one(random, (weights, {"model_state_dict": weights})), folder / UPSTREAM_WEIGHTS)
    elif kind == "archive":
        (folder / WEIGHTS).unlink(missing_ok=True)
        of_archive(sound, folder / UPSTREAM_WEIGHTS, random)
    elif kind == "bytes":
        content = bytearray(file.read_bytes())
        for place in random.integers(min(len(content), int(one(random, (200, 5000, 10**9)))), size=4):
            content[place] = int(random.integers(256))
        file.write_bytes(content[: len(content) if random.random() < 0.7 else int(random.integers(len(content)))])
    else:
        target = folder / one(random, (ARGS, VOCABULARY))
        target.write_bytes(one(random, JSONS))
    return str(kind)


def of_archive(sound: Sound, path: Path, random: Random) -> None:
    """Pack the weights once more, with an entry or the table of contents changed."""
    file = io.BytesIO()
    torch.save(dict(sound.checkpoint.weights), file)
    compression = one(random, (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(path, "w", compression) as new:
        target = one(random, old.namelist())
        for name in old.namelist():
            content = old.read(name)
            if name == target:
                content = one(
                    random, (b"", content * 3, content[:-1], bytes(2**26), content[::-1], b"\x80\x02" + b"(" * 9999)
                )
            new.writestr(name, content)
        if random.random() < 0.2:
            new.comment = b"x" * 100


SUBJECTS: dict[str, Callable[[Sound, Path, Random], str]] = {"recipe": recipe, "study": study, "checkpoint": checkpoint}
