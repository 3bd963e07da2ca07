"""Worker process: load references once, then label one upload after the other.

Uploads are untrusted. A file that makes the process crash or hang affects one request only, because the server replaces
the process. Messages are lines of JSON on standard input and output; see :mod:`spikgpt.service.messages`.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, TypeVar

import msgspec

from spikgpt.errors import ConfigError, SpikGPTError
from spikgpt.service.messages import UPLOAD, Begun, Done, Failed, LabelJob, Ready, Reply, Served, Setup
from spikgpt.service.refusals import INTERNAL, Kind, Refusal

if TYPE_CHECKING:
    from spikgpt.api import SpikGPT
    from spikgpt.scoring.annotation import Annotation
    from spikgpt.several import NamedModel

# Names that an upload gets once its format is known, because messages show the name.
H5AD, JSON, PARQUET = "query.h5ad", "query.json", "query.parquet"
GZIP, PARQUET_MARK = b"\x1f\x8b", b"PAR1"
PR_SET_PDEATHSIG = 1  # option of Linux's prctl(): send a signal to this process when its parent dies
log = logging.getLogger("spikgpt.service")
T = TypeVar("T")
SendReply: TypeAlias = Callable[[Reply], None]


def load(setup: Setup) -> dict[str, SpikGPT]:
    """Load the references of a setup, and return them by name.

    Raises
    ------
    SpikGPTError
        When a reference cannot be loaded.
    ConfigError
        When two references have the same name.
    """
    from spikgpt.api import SpikGPT

    models: dict[str, SpikGPT] = {}
    for model in setup.models:
        loaded = SpikGPT.from_pretrained(model.source, expect=model.digest, **setup.keywords)
        if (name := loaded.reference.name) in models:
            msg = f"Two references have the name {name!r}; serve one of them, or start a second service."
            raise ConfigError(msg)
        models[name] = loaded
    return models


def described(models: Mapping[str, SpikGPT | NamedModel]) -> Ready:
    """Return names, digests and labels of the loaded references."""
    return Ready(
        tuple(
            Served(
                name=name,
                digest=model.reference.digest,
                origin=model.reference.origin,
                labels=model.reference.labels.names,
                cell_ontology_ids=model.reference.labels.cell_ontology_ids,
                engine=model.engine.name,
            )
            for name, model in models.items()
        )
    )


def run_job(job: LabelJob, models: dict[str, SpikGPT], max_cells: int) -> Done | Failed:
    """Label an upload, and write the answer to the job's folder; errors are returned as ``Failed``, not raised."""
    folder = Path(job.folder)
    try:
        from spikgpt.service.answers import answer_headers, write_answer

        with within(folder):
            annotation = label(models[job.model], job.options, max_cells)
            path = write_answer(annotation, job.media, Path())
            return Done(file=path.name, headers=answer_headers(annotation), cells=len(annotation.best))
    except SpikGPTError as error:
        refusal = Refusal.from_error(error)
        if refusal.kind == Kind.INTERNAL_ERROR:
            log.error("%s: %s", type(error).__name__, error)
        return Failed(refusal.kind, without_folder(str(refusal), folder))
    except Exception:  # any error of a library must not end the worker
        log.exception("A request failed.")
        return Failed(Kind.INTERNAL_ERROR, INTERNAL)


@contextmanager
def within(folder: Path) -> Iterator[None]:
    """While this context is open, make ``folder`` the working directory and the folder of temporary files.

    Messages then show relative paths, without the name of the folder.
    """
    home = Path.cwd()
    os.chdir(folder)
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        os.chdir(home)
        tempfile.tempdir = None


def label(model: SpikGPT, options: dict[str, Any], max_cells: int) -> Annotation:
    """Label the upload in the current folder.

    Raises
    ------
    DataError
        When the cells cannot be read or do not suit the reference.
    ConfigError
        When an option does not fit the cells or the reference.
    Refusal
        When there are too many cells, or the upload is compressed.
    """
    from spikgpt.cells.reading import open_cells
    from spikgpt.service.tables import check_cells, read_json, read_parquet

    with Path(UPLOAD).open("rb") as file:
        head = file.read(64)
    if head.startswith(GZIP):
        msg = "The upload is compressed with gzip; send the file as it is before compression."
        raise Refusal(Kind.COMPRESSED, msg)
    if head.startswith(PARQUET_MARK):
        return model.annotate(read_parquet(Path(UPLOAD).rename(PARQUET), max_cells), **options)
    if head.lstrip().startswith((b"{", b"[")):
        return model.annotate(read_json(Path(UPLOAD).rename(JSON), max_cells), **options)
    query = Path(UPLOAD).rename(H5AD)
    with open_cells(query) as cells:
        check_cells(cells.n_obs, max_cells)
    return model.annotate(query, **options)


def without_folder(text: str, folder: Path) -> str:
    """Return a message without the path of the job's folder."""
    for path in (folder.resolve(), folder):
        text = text.replace(f"{path}{os.sep}", "").replace(str(path), ".")
    return text


def main() -> None:
    """Answer the messages on standard input until it is closed."""
    answer_messages(
        load,
        described,
        lambda line, models, setup, _: run_job(msgspec.json.decode(line, type=LabelJob), models, setup.max_cells),
    )


def answer_messages(
    load: Callable[[Setup], T], describe: Callable[[T], Ready], run: Callable[[bytes, T, Setup, SendReply], Reply]
) -> None:
    """Load references, and answer each message on standard input until it is closed.

    Parameters
    ----------
    load
        Function that loads and returns the references of a setup.
    describe
        Function that returns the answer to the setup from the loaded references.
    run
        Function that runs a job and returns the answer; meanwhile it may send reports on its progress.
    """
    # Libraries and their C code may print. Their output is sent to standard error, so that standard output has only
    # replies.
    messages, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    logging.basicConfig(format="%(asctime)s %(message)s")
    warnings.simplefilter("ignore")
    _prefer_server()
    setup = msgspec.json.decode(messages.readline(), type=Setup)
    try:
        models = load(setup)
    except SpikGPTError as error:
        _reply(replies, Failed(type(error).__name__, str(error)))
        return
    _reply(replies, describe(models))
    for line in messages:
        _reply(replies, Begun())
        _reply(replies, run(line, models, setup, lambda reply: _reply(replies, reply)))


def _prefer_server() -> None:
    """Let Linux kill this process before the server if memory is short, and also when the server is killed."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800")
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))


def _reply(replies: BinaryIO, reply: Reply) -> None:
    replies.write(msgspec.json.encode(reply) + b"\n")
    replies.flush()


if __name__ == "__main__":
    main()
