"""``spikgpt embed``, ``spikgpt convert-scgpt`` and ``spikgpt pretrain``."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Literal

import typer
from msgspec import Meta

from spikgpt.cli.flags import CHECKPOINT, command, escaped, hub_of
from spikgpt.cli.output import Bars, goes_on, interruptible, note, option, say
from spikgpt.cli.paths import CELLS, Output, check_outputs
from spikgpt.errors import ConfigError
from spikgpt.options import Count, HubOptions, Options, about

CHECKPOINT_HELP = escaped(CHECKPOINT)
Layer = Annotated[str | None, about("Layer to read, X or raw; by default the best expression values.")]
Device = Annotated[str | None, about("A torch device; by default a GPU when there is one.")]
Torch = Literal["float32", "bfloat16", "float16"]
Rate = Annotated[float, Meta(gt=0, description="Largest learning rate.")]


class EmbedOptions(Options, frozen=True):
    """How the cells are embedded."""

    layer: Layer = None
    max_length: Annotated[Count, about("Tokens of a cell at most.")] = 1200
    batch_size: Annotated[Count | None, about("Cells at a time; by default what is fast and fits.")] = None
    precision: Annotated[Torch, about("Number format; the shorter ones are faster on a GPU.")] = "float32"
    device: Device = None
    cache: Annotated[bool, about("Keep finished cells, to resume from and to reuse.")] = True


class PretrainOptions(Options, frozen=True):
    """How the network is trained."""

    genes: Annotated[Count, about("Size of the vocabulary: the most variable genes.")] = 3000
    dim: Annotated[Count, about("Length of a cell's vector.")] = 128
    layers: Annotated[Count, about("Layers of the transformer.")] = 4
    heads: Annotated[Count, about("Attention heads of a layer.")] = 4
    max_length: Annotated[Count, about("Tokens of a cell at most.")] = 600
    epochs: Annotated[Count, about("Passes over the cells.")] = 20
    batch_size: Annotated[Count, about("Cells to a step.")] = 32
    learning_rate: Rate = 1e-3
    seed: Annotated[int, Meta(ge=0, description="The same seed gives the same weights on a CPU.")] = 0
    layer: Layer = None
    device: Device = None


@command()
def embed(
    query: Annotated[Path, typer.Argument(help="Cells to embed: .h5ad or .zarr.")],
    scgpt: Annotated[str, typer.Option("--scgpt", help=CHECKPOINT_HELP)],
    out: Annotated[Path, typer.Option(help="File to write: the input with the embedding in obsm.")],
    options: EmbedOptions,
    hub: HubOptions,
    key: Annotated[str, typer.Option(help="Name of the embedding in obsm.")] = "X_scGPT",
    upstream_seeds: Annotated[
        tuple[int, int] | None, typer.Option(help="Draw as upstream does, from these seeds of NumPy and torch.")
    ] = None,
) -> None:
    """Write scGPT's embedding of QUERY. An interrupted run goes on from its last finished cells."""
    from spikgpt.cells.output import write_copy
    from spikgpt.cells.reading import open_cells
    from spikgpt.cells.storage import identity_of
    from spikgpt.engines.scgpt.draws import UpstreamDraws
    from spikgpt.engines.scgpt.embedding import Running, cache_folder
    from spikgpt.engines.scgpt.source import open_scgpt
    from spikgpt.engines.torch import embed_query

    check_outputs(Output("--out", out, CELLS), inputs=(query, scgpt))
    draws = UpstreamDraws(*upstream_seeds) if upstream_seeds else None
    cache = cache_folder() if options.cache and not draws else None
    source = open_scgpt(scgpt, max_length=options.max_length, hub=hub_of(hub))
    running = Running(options.batch_size, options.precision, options.device, cache, draws)
    identity = identity_of(query)
    with interruptible(lambda: goes_on("Finished cells are", cache)):
        with open_cells(query) as cells, Bars() as bars:
            on_cells = functools.partial(bars, "Embedding", cells.n_obs, "cells")
            vectors, empty, report = embed_query(source, cells, running, layer=options.layer, on_cells=on_cells)
            names = cells.obs_names
        write_copy(query, out, obsm={key: vectors.astype("float32")}, obs_names=names, identity=identity)
    say(f"Read {report.values} from {report.source}.")
    say(report.genes)
    if empty.any():
        note(f"{int(empty.sum())} cells have no such genes; their vectors mean nothing.")
    note(*report.notes)
    say(f"Wrote {out}, obsm[{key!r}], {vectors.shape[1]} values a cell.")


@command()
def convert_scgpt(
    checkpoint: Annotated[str, typer.Argument(help=CHECKPOINT_HELP)],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    hub: HubOptions,
    upstream: Annotated[bool, typer.Option("--upstream", help="Write best_model.pt instead of safetensors.")] = False,
) -> None:
    """Convert an scGPT checkpoint to safetensors weights, or back to what the scgpt package reads."""
    from spikgpt.engines.scgpt.checkpoint import save_checkpoint
    from spikgpt.engines.scgpt.source import open_scgpt

    found = open_scgpt(checkpoint, hub=hub_of(hub)).checkpoint
    save_checkpoint(found, out, upstream=upstream)
    say(f"Wrote {out}: {len(found.vocabulary)} tokens, sha256 {found.sha256}.")


@command()
def pretrain(
    cells: Annotated[Path, typer.Argument(help="Cells to learn from: .h5ad, .zarr or 10x; no labels are needed.")],
    out: Annotated[Path, typer.Option(help="Folder to write the checkpoint to.")],
    options: PretrainOptions,
) -> None:
    """Train an scGPT network of your own. An interrupted training goes on from the last epoch when started again."""
    from spikgpt.cells.reading import read_cells
    from spikgpt.engines.scgpt.checkpoint import save_checkpoint
    from spikgpt.engines.scgpt.encoder import ScGPTConfig
    from spikgpt.training.pretraining import Pretraining
    from spikgpt.training.pretraining import pretrain as pretrain_network

    if out.exists():
        msg = f"{out} exists already; name a new folder for the checkpoint."
        raise ConfigError(msg)
    dim, size = options.dim, options.batch_size
    config = ScGPTConfig(dim=dim, heads=options.heads, hidden=2 * dim, layers=options.layers, dropout=0.0)
    settings = Pretraining(
        options.genes, options.max_length, options.epochs, size, options.learning_rate, seed=options.seed
    )
    adata = read_cells(cells)
    state = out.with_name(f".{out.name}.training.safetensors")
    with interruptible(lambda: goes_on("The state after the last finished epoch is", state)), Bars() as bars:

        def on_epoch(epoch: int, epochs: int, loss: float) -> None:
            bars("Training", epochs, "epochs", done=epoch, figures=f"loss {loss:.3f}")

        checkpoint = pretrain_network(
            adata, config, settings, layer=options.layer, device=options.device, state=state, on_epoch=on_epoch
        )
        save_checkpoint(checkpoint, out)
    state.unlink(missing_ok=True)
    say(f"Wrote {out}; embed with: spikgpt embed QUERY.h5ad {option('--scgpt', out)} --out OUT.h5ad")
