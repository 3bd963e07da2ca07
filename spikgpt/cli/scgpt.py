"""``spikgpt embed``, ``spikgpt convert-scgpt`` and ``spikgpt pretrain``."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Literal

import typer
from msgspec import Meta

from spikgpt.cli.flags import CHECKPOINT, command, escaped, hub_of
from spikgpt.cli.output import Bars, inform, interruptible, note, option, resume_hint
from spikgpt.cli.paths import CELLS, Output, check_outputs
from spikgpt.errors import ConfigError
from spikgpt.options import Count, GeneKey, HubOptions, Options, about

CHECKPOINT_HELP = escaped(CHECKPOINT)
Layer = Annotated[str | None, about("Layer to read, X or raw; default: counts if present, else log-normalised values.")]
Device = Annotated[str | None, about("Device of PyTorch, such as cpu; default: a GPU if there is one.")]
Torch = Literal["float32", "bfloat16", "float16"]
Rate = Annotated[float, Meta(gt=0, description="Largest learning rate.")]


class EmbedOptions(Options, frozen=True):
    """Embedding of the cells."""

    layer: Layer = None
    gene_key: GeneKey = None
    max_length: Annotated[Count, about("Largest number of tokens of a cell.")] = 1200
    batch_size: Annotated[
        Count | None, about("Number of cells computed at a time; default: the fastest that fits in memory.")
    ] = None
    precision: Annotated[Torch, about("Number format; 16 bits are faster on a GPU.")] = "float32"
    device: Device = None
    cache: Annotated[bool, about("Cache embedded cells, to continue an interrupted run.")] = True


class PretrainOptions(Options, frozen=True):
    """Training of the network."""

    genes: Annotated[Count, about("Number of genes in the vocabulary; the most variable genes are used.")] = 3000
    dim: Annotated[Count, about("Length of the vector of a cell.")] = 128
    layers: Annotated[Count, about("Number of layers of the transformer.")] = 4
    heads: Annotated[Count, about("Number of attention heads in each layer.")] = 4
    max_length: Annotated[Count, about("Largest number of tokens of a cell.")] = 600
    epochs: Annotated[Count, about("Number of passes over the cells.")] = 20
    batch_size: Annotated[Count, about("Number of cells in each training step.")] = 32
    learning_rate: Rate = 1e-3
    seed: Annotated[
        int, Meta(ge=0, description="Seed of the random numbers; on a CPU, the same seed gives the same weights.")
    ] = 0
    layer: Layer = None
    gene_key: GeneKey = None
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
        tuple[int, int] | None,
        typer.Option(help="Use the random numbers of the scgpt package, from these seeds of NumPy and PyTorch."),
    ] = None,
) -> None:
    """Write scGPT's embedding of QUERY. To continue after an interruption, run the command again."""
    from spikgpt.cells.output import write_copy
    from spikgpt.cells.reading import open_cells
    from spikgpt.cells.storage import identity_of
    from spikgpt.engines.scgpt.embedding import RunSettings, cache_folder
    from spikgpt.engines.scgpt.source import open_scgpt
    from spikgpt.engines.scgpt.upstream_tokenizer import UpstreamTokenizer
    from spikgpt.engines.torch import embed_query

    check_outputs(Output("--out", out, CELLS), inputs=(query, scgpt))
    tokenizer = UpstreamTokenizer(*upstream_seeds) if upstream_seeds else None
    cache = cache_folder() if options.cache and not tokenizer else None
    source = open_scgpt(scgpt, max_length=options.max_length, hub=hub_of(hub))
    settings = RunSettings(options.batch_size, options.precision, options.device, cache, tokenizer)
    identity = identity_of(query)
    with interruptible(lambda: resume_hint("Finished cells are", cache)):
        with open_cells(query) as cells, Bars() as bars:
            on_cells = functools.partial(bars, "Embedding", cells.n_obs, "cells")
            layer, genes = options.layer, options.gene_key
            vectors, empty, report = embed_query(
                source, cells, settings, layer=layer, gene_key=genes, on_cells=on_cells
            )
            names = cells.obs_names
        write_copy(query, out, obsm={key: vectors.astype("float32")}, obs_names=names, identity=identity)
    inform(f"Read {report.values} from {report.source}.")
    inform(report.genes)
    if empty.any():
        note(f"Cells without genes of the vocabulary: {int(empty.sum())}. Their vectors are meaningless.")
    note(*report.notes)
    inform(f"Wrote {out}, obsm[{key!r}], {vectors.shape[1]} values per cell.")


@command()
def convert_scgpt(
    checkpoint: Annotated[str, typer.Argument(help=CHECKPOINT_HELP)],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    hub: HubOptions,
    upstream: Annotated[
        bool, typer.Option("--upstream", help="Convert back: write best_model.pt instead of safetensors.")
    ] = False,
) -> None:
    """Convert an scGPT checkpoint to safetensors weights, or back to the format of the scgpt package."""
    from spikgpt.engines.scgpt.checkpoint import save_checkpoint
    from spikgpt.engines.scgpt.source import open_scgpt

    opened = open_scgpt(checkpoint, hub=hub_of(hub)).checkpoint
    save_checkpoint(opened, out, upstream=upstream)
    inform(f"Wrote {out}: {len(opened.vocabulary)} tokens, sha256 {opened.sha256}.")


@command()
def pretrain(
    cells: Annotated[Path, typer.Argument(help="Cells to learn from: .h5ad, .zarr or 10x; no labels are needed.")],
    out: Annotated[Path, typer.Option(help="Folder to write the checkpoint to.")],
    options: PretrainOptions,
) -> None:
    """Train your own scGPT network. To continue after an interruption, run the command again."""
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
    with interruptible(lambda: resume_hint("The state after the last finished epoch is", state)), Bars() as bars:

        def on_epoch(epoch: int, epochs: int, loss: float) -> None:
            bars("Training", epochs, "epochs", done=epoch, figures=f"loss {loss:.3f}")

        checkpoint = pretrain_network(
            adata,
            config,
            settings,
            layer=options.layer,
            gene_key=options.gene_key,
            device=options.device,
            state=state,
            on_epoch=on_epoch,
        )
        save_checkpoint(checkpoint, out)
    state.unlink(missing_ok=True)
    inform(f"Wrote {out}; embed with: spikgpt embed QUERY.h5ad {option('--scgpt', out)} --out OUT.h5ad")
