"""Random alterations of a recipe, a study file and an scGPT checkpoint."""

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
from tests.fuzz.alter_answers import choice
from tests.spikgpt_recipes.conftest import write_recipe
from tests.spikgpt_recipes.readers.test_archives import sparse, with_header
from tests.spikgpt_recipes.study_files import LAYOUTS, packed, tar, zipped

Random = np.random.Generator

WRONG_NAMES = (
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
WRONG_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, 2**31, 2**63, 10**30, 10**400, float("inf"), float("nan"), "", [], {}, [None], {"a": {}}),
    *WRONG_NAMES,
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
# Recipe texts that YAML does not read as a plain tree of values.
WRONG_YAML = (
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


# Wrong values for fields of tables, and wrong contents for JSON files of checkpoints.
WRONG_FIELDS = (
    *(b"-1", b"nan", b"1e999", b"9" * 400, b'"', b"", b"\0", b"x" * 300_000, b"\t" * 90_000, b"," * 90_000),
    *(b"\xff\xfe", b"2147483648", b"99999999999", b"1_0", b"inf", b"../../x", b"0"),
)
WRONG_JSON = (
    *(b"", b"[" * 100_000, b"\xff", b'{"a":' * 50_000, b"1e999", b'{"nlayers": 1' + b"0" * 5000, b"null"),
    *(b" " * 2**21, b"NaN", b'{"\\ud800": 0}'),
)


class ValidInputs:
    """A valid recipe, its mirror, the files of studies and a checkpoint."""

    folders = ("kind", "recipe", "mirror", "cache", "out", "files", "checkpoint", "secret")

    def __init__(self, cells: AnnData, folder: Path) -> None:
        self.recipe = (write_recipe(folder / "valid") / "recipe.yaml").read_text()
        pancreas(cells, folder / "mirror")
        self.archive = (folder / "mirror" / "GSE84133" / "GSE84133_RAW.tar").read_bytes()
        few = cells[:40, :60].copy()
        self.studies = {name: layout(few) for name, layout in LAYOUTS.items()}
        config = ScGPTConfig(dim=16, heads=2, hidden=16, layers=2)
        tokens = (*few.var_names[:20], config.pad_token, CLS, END)
        self.vocabulary = {token: index for index, token in enumerate(tokens)}
        network = ScGPTEncoder(config, len(tokens), self.vocabulary[config.pad_token])
        self.checkpoint = Checkpoint(config, self.vocabulary, dict(network.state_dict()))


def random_item(values: Any, random: Random) -> tuple[Any, Any]:
    """Return a random list or mapping within nested values, and one of its indices or keys."""
    node, item = values, None
    while isinstance(node, dict | list) and node:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        item = node, choice(random, keys)
        node = node[item[1]]
        if random.random() < 0.1:
            break
    assert item is not None
    return item


def change_value(values: Any, random: Random) -> None:
    """Change, remove, repeat or rename a random value within nested values."""
    node, key = random_item(values, random)
    draw = random.random()
    if draw < 0.7:
        node[key] = choice(random, WRONG_VALUES)
    elif draw < 0.8:
        del node[key]
    elif isinstance(node, list):
        node.extend([node[key]] * int(random.integers(1, 300)))
    else:
        node[str(choice(random, WRONG_VALUES))] = node.pop(key)


def recipe(valid: ValidInputs, path: Path, random: Random) -> str:
    """Write an altered recipe with its mirror, and return the kind of alteration."""
    (path / "kind").write_text("recipe")
    (path / "recipe").mkdir()
    (path / "mirror" / "GSE84133").mkdir(parents=True)
    (path / "mirror" / "GSE84133" / "GSE84133_RAW.tar").write_bytes(valid.archive)
    (path / "secret").write_bytes(b"secret")
    text, card = valid.recipe, path / "recipe" / "card.md"
    card.write_text("## Intended use\n\nTests.\n")
    kind = choice(random, ("valid", "value", "value", "value", "name", "name", "pattern", "text", "bytes", "file"))
    values = yaml.safe_load(text)
    source = choice(random, values["sources"])
    if kind == "value":
        for _ in range(int(random.integers(1, 3))):
            change_value(values, random)
    elif kind == "name":
        target, key = choice(
            random, ((source, "accession"), (source, "study"), (source["files"][0], "name"), (values, "card"))
        )
        target[key] = choice(random, WRONG_NAMES)
    elif kind == "pattern":
        reader = source["files"][0]["reader"]
        pattern = choice(
            random, ("(a|a)*b", "(.*)*x", "(G*)*(S*)*$", "(.+)+,", ".*" * 30, "(\\w+\\s?)*x", "((a{1,99}){1,99}){1,99}")
        )
        target, key = choice(random, ((reader, "members"), (reader["reader"], "name_pattern")))
        target[key] = pattern
        source["patterns"] = {pattern: None}
    if kind in ("value", "name", "pattern"):
        text = yaml.safe_dump(values, allow_unicode=bool(random.random() < 0.5))
    elif kind == "text":
        text = text.replace("seed: 3", choice(random, WRONG_YAML))
    elif kind == "bytes":
        position = int(random.integers(len(text)))
        text = (
            text[:position]
            + choice(random, ("\0", "\x1b", "{", "- ", "\t", "&a ", "*a ", "!!x ", "'" * 3))
            + text[position:]
        )
    (path / "recipe" / "recipe.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    if kind == "file":
        target = choice(random, (card, path / "recipe" / "recipe.yaml"))
        target.unlink()
        act: Callable[[], object] = choice(
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
    """Return gzip data of ``times`` MiB that repeat ``unit``."""
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1, mtime=0) as stream:
        for _ in range(times):
            stream.write(unit * (2**20 // len(unit)))
    return file.getvalue()


def damaged_text(text: bytes, random: Random) -> bytes:
    """Damage one of the first lines of a table, a list or a matrix."""
    lines = text.split(b"\n")
    index = int(random.integers(max(1, min(len(lines), 6))))
    words = lines[index].replace(b"\t", b" ").replace(b",", b" ").split()
    word = choice(random, words) if words else b""
    new = choice(random, WRONG_FIELDS)
    draw = random.random()
    if draw < 0.5:
        lines[index] = lines[index].replace(word, new, 1) if word else new
    elif draw < 0.6:
        lines[index] = b'"' + lines[index]
    elif draw < 0.7:
        lines = lines[:index] + [b"%" * 70_000] + lines[index:]
    elif draw < 0.8:
        lines = lines * int(random.integers(2, 50))
    elif draw < 0.9:
        del lines[index]
    else:
        lines.insert(
            index,
            choice(random, (lines[-2] if len(lines) > 1 else b"", b"%%MatrixMarket matrix array real general", b"")),
        )
    return b"\n".join(lines)


def damaged(content: bytes, random: Random) -> tuple[str, bytes]:
    """Damage the compression, the members or the text of a file; return the kind of damage and the file."""
    draw = random.random()
    if draw < 0.08:
        array = bytearray(content)
        for position in random.integers(len(array), size=int(random.integers(1, 9))):
            array[position] ^= int(random.integers(1, 256))
        return "bits flipped", bytes(array)
    if draw < 0.14:
        return "truncated", content[: int(random.integers(len(content)))]
    if draw < 0.2:
        unit = choice(random, (b"\0", b"0\n", b"0,", b"1 1 1\n", b'"', b"a\tb\n", b"\t", b"x" * 1024 + b"\n", b"%\n"))
        begin = content if random.random() < 0.5 and content[:2] == b"\x1f\x8b" else b""
        return "bomb", begin + bomb(unit, int(choice(random, (80, 300))))
    if content[:2] == b"\x1f\x8b":
        kind, inner = damaged(gzip.decompress(content), random)
        return kind, packed(inner)
    if content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        kind, members = damaged_members(members, random)
        return kind, zipped(members)
    if tarfile.is_tarfile(io.BytesIO(content)):
        return damaged_tar(content, random)
    return "text", damaged_text(content, random)


def damaged_tar(content: bytes, random: Random) -> tuple[str, bytes]:
    """Damage a tar archive or one of its members; return the kind of damage and the archive."""
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive.getmembers()}  # type: ignore[union-attr]
    draw = random.random()
    name = choice(random, sorted(members))
    if draw < 0.1:
        return "sparse member", sparse(int(choice(random, (8 * 1024**4, 2**40, 5)))).replace(
            b"a.csv", name.encode()[:90]
        )
    if draw < 0.2:
        header = choice(
            random, (b"9" * 60_000, bytes(2**20), b"30 path=../../../x\n", b"%d size=99999999999\n" % 20, b"x" * 99)
        )
        return "header", with_header(header)
    if draw < 0.3:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as archive:
            link = tarfile.TarInfo(name)
            link.type = choice(
                random, (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE)
            )
            link.linkname = choice(random, ("/etc/passwd", name, "../../x"))
            archive.addfile(link)
        return "link", file.getvalue()
    if draw < 0.35:
        return "many members", tar({f"{number}": b"" for number in range(5000)} | members)
    kind, members = damaged_members(members, random)
    return kind, tar(members, choice(random, ("w", "w", "w:gz", "w:bz2", "w:xz")))


def damaged_members(members: dict[str, bytes], random: Random) -> tuple[str, dict[str, bytes]]:
    """Rename or damage a member of an archive; return the kind of damage and the members."""
    name = choice(random, sorted(members))
    if random.random() < 0.2:
        new = choice(random, WRONG_NAMES).replace("\0", "") or "x"
        return "name of a member", {new if key == name else key: content for key, content in members.items()}
    kind, content = damaged(members[name], random)
    return f"{kind} of a member", members | {name: content}


def study(valid: ValidInputs, path: Path, random: Random) -> str:
    """Write the files of a study with one of the files damaged, and return the kind of damage."""
    name = choice(random, sorted(valid.studies))
    (path / "kind").write_text(f"study {name}")
    (path / "files").mkdir()
    files = dict(valid.studies[name])
    target = choice(random, sorted(files))
    kind, files[target] = damaged(files[target], random)
    for file, content in files.items():
        (path / "files" / file).write_bytes(content)
    return kind


def alter_tensor(weights: dict[str, Any], random: Random) -> None:
    """Change the shape, type, values or name of a tensor."""
    name = choice(random, sorted(weights))
    tensor = weights[name]
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: torch.ones(1).expand(2**38),
        lambda: torch.ones(1).as_strided(tuple(tensor.shape), (0,) * tensor.ndim),
        lambda: torch.empty(2**38, device="meta"),
        lambda: tensor.to_sparse() if tensor.ndim else tensor,
        lambda: tensor.to(
            choice(random, (torch.int64, torch.float16, torch.complex64, torch.bool, torch.float8_e4m3fn))
        ),
        lambda: tensor * float("nan"),
        lambda: tensor[..., :0],
        lambda: tensor.new_zeros((3,) * 9),
        lambda: [1, 2],
        lambda: {"a": tensor},
        lambda: None,
    )
    draw = random.random()
    if draw < 0.7:
        weights[name] = choice(random, kinds)()
    elif draw < 0.8:
        del weights[name]
    elif draw < 0.9:
        weights[f"{name}{choice(random, ('', '.x', '/..'))}x"] = tensor
    else:
        weights |= {f"transformer_encoder.layers.{number}.x": tensor for number in range(3000)}


def checkpoint(valid: ValidInputs, path: Path, random: Random) -> str:
    """Write an altered checkpoint, and return the kind of alteration."""
    (path / "kind").write_text("checkpoint")
    folder = save_checkpoint(valid.checkpoint, path / "checkpoint", upstream=bool(random.random() < 0.7))
    kind = choice(random, ("args", "args", "vocabulary", "tensor", "tensor", "archive", "bytes", "text"))
    file = folder / UPSTREAM_WEIGHTS if (folder / UPSTREAM_WEIGHTS).exists() else folder / WEIGHTS
    if kind in ("args", "vocabulary"):
        target = folder / (ARGS if kind == "args" else VOCABULARY)
        values = json.loads(target.read_text())
        change_value(values, random)
        if kind == "args" and random.random() < 0.6:
            key = choice(random, sorted(set(valid.checkpoint.config.to_args())))
            values[key] = choice(random, (10_000_000, 2**40, 10**30, 0, -1, 3, 64, 1e308, "2", None, [1]))
        target.write_text(json.dumps(values))
    elif kind == "tensor":
        weights = dict(valid.checkpoint.weights)
        alter_tensor(weights, random)
        (folder / WEIGHTS).unlink(missing_ok=True)
        torch.save(choice(random, (weights, {"model_state_dict": weights})), folder / UPSTREAM_WEIGHTS)
    elif kind == "archive":
        (folder / WEIGHTS).unlink(missing_ok=True)
        alter_archive(valid, folder / UPSTREAM_WEIGHTS, random)
    elif kind == "bytes":
        content = bytearray(file.read_bytes())
        for position in random.integers(min(len(content), int(choice(random, (200, 5000, 10**9)))), size=4):
            content[position] = int(random.integers(256))
        file.write_bytes(content[: len(content) if random.random() < 0.7 else int(random.integers(len(content)))])
    else:
        target = folder / choice(random, (ARGS, VOCABULARY))
        target.write_bytes(choice(random, WRONG_JSON))
    return str(kind)


def alter_archive(valid: ValidInputs, path: Path, random: Random) -> None:
    """Write the weights as a new zip archive with one entry changed, and sometimes a comment."""
    file = io.BytesIO()
    torch.save(dict(valid.checkpoint.weights), file)
    compression = choice(random, (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(path, "w", compression) as new:
        target = choice(random, old.namelist())
        for name in old.namelist():
            content = old.read(name)
            if name == target:
                content = choice(
                    random, (b"", content * 3, content[:-1], bytes(2**26), content[::-1], b"\x80\x02" + b"(" * 9999)
                )
            new.writestr(name, content)
        if random.random() < 0.2:
            new.comment = b"x" * 100


SUBJECTS: dict[str, Callable[[ValidInputs, Path, Random], str]] = {
    "recipe": recipe,
    "study": study,
    "checkpoint": checkpoint,
}
