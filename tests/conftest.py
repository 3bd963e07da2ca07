"""Real cells, real references and other fixtures that several test files share."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

# huggingface_hub reads these variables on import. The loopback Hub has no xet storage.
os.environ["HF_HUB_DISABLE_XET"] = os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# This temporary folder keeps the tests away from the user's cache and token.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="spikgpt-tests-")
# A port without a server, so that no test reaches the real Hub.
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from filelock import FileLock
from scipy import sparse

from spikgpt import Annotation, SpikGPT
from spikgpt.cells.align import AlignedCells, joined, log_normalise
from spikgpt.cells.reading import read_cells
from spikgpt.embedding.base import Engine
from spikgpt.engines.opening import open_engine, torch_engine
from spikgpt.options import AnnotateOptions, EngineOptions, TrainOptions, options_of
from spikgpt.pipeline import annotate
from spikgpt.reference.files import Reference, read_reference, save
from spikgpt.reference.hub import Hub
from spikgpt.scoring.compatibility import LIKE, Compatibility
from spikgpt.scoring.ood_rule import OODRule
from spikgpt.scoring.rejection import RejectionRule
from spikgpt.types import InputReport
from tests.hub_server import LoopbackHub

# A shell makes background processes ignore Ctrl-C. Commands that tests interrupt would otherwise ignore Ctrl-C too.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Garbage collection is off during imports, which create half a million objects and almost no garbage.
gc.disable()

# Files with the longest tests; these files run first, so that all processes end at about the same time.
SLOWEST = (
    "test_alone.py",
    "test_page.py",
    "test_browser.py",
    "test_steps.py",
    "test_cli.py",
    "test_leave_one_out.py",
    "test_ordinary.py",
    "test_workflow.py",
    "test_cells.py",
    "test_figures.py",
    "test_pipeline.py",
    "test_annotate.py",
    "test_output.py",
    "test_reading.py",
    "test_train.py",
    "test_sharing.py",
    "test_transformations.py",
    "test_model.py",
    "test_stored.py",
    "test_query_model.py",
    "test_onnx.py",
    "test_scgpt.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest files first, in the order of SLOWEST."""
    ranks = {name: rank for rank, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


def pytest_collection_finish() -> None:
    """Enable garbage collection again, and exclude the objects of imported modules to save time."""
    gc.freeze()
    gc.enable()


# Modules that need torch or onnx are imported on use, because some tests run without these packages.
if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from spikgpt_onnx.parity import ExportableReference

DATA = Path(__file__).parent / "data"
QUERY_FILE = DATA / "pancreas_baron_human2_human4.h5ad"
# Browser of Debian and Ubuntu, with software rendering for machines without a GPU.
CHROMIUM = Path("/usr/bin/chromium")
BROWSER_FLAGS = ("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
# Environment variable with the folder of ``small`` and its graph, for tests without torch.
TRAINED = "SPIKGPT_TESTS_TRAINED"


def usual_engine(reference: Reference) -> Engine:
    """Return the torch engine, or the ONNX Runtime engine if torch is not installed."""
    return open_engine(reference, EngineOptions(engine="torch" if find_spec("torch") else "onnx"))


def labelled(reference: Reference, adata: Any, engine: Any = None, **options: Any) -> Annotation:
    """Return the annotation of cells by the given engine or the usual one; ``adata`` is not changed."""
    return annotate(reference, engine or usual_engine(reference), adata, options_of(AnnotateOptions, options))


def exportable(reference: Reference) -> ExportableReference:
    """Return a reference together with its torch engine, as the exporter needs."""
    from spikgpt_onnx.parity import ExportableReference

    return ExportableReference(reference, torch_engine(reference))


def aligned(reference: Reference, adata: Any) -> AlignedCells:
    """Return the cells that have counts, aligned to the genes of a reference."""
    chunks = usual_engine(reference).embedding.read(adata, layer=None, scaling="auto").chunks
    cells = joined(list(chunks))
    return cells.part(~cells.empty)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Set a temporary cache folder, so that tests do not use the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPIKGPT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def unchanged(adata: AnnData) -> Iterator[AnnData]:
    """Yield cells that tests share, and check at the end that no test changed the cells."""
    before = adata.copy()
    yield adata
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    pd.testing.assert_frame_equal(adata.var, before.var)
    assert (list(adata.obsm), list(adata.layers), list(adata.uns)) == ([], [], [])
    assert (adata.X != before.X).nnz == 0


@pytest.fixture(scope="session")
def cells() -> Iterator[AnnData]:
    """Yield 360 cells of donor human1, 60 of each of its six largest types, in two made-up batches."""
    adata = read_cells(DATA / "pancreas_baron_human1.h5ad")
    labels = adata.obs["cell_type"].astype(str).to_numpy()
    names, counts = np.unique(labels, return_counts=True)
    largest = names[np.argsort(-counts, kind="stable")[:6]]
    chosen = np.sort(np.concatenate([np.flatnonzero(labels == name)[:60] for name in largest]))
    subset = adata[chosen].copy()
    subset.obs["batch"] = pd.Categorical(np.where(np.arange(subset.n_obs) % 3 == 0, "one", "two"))
    yield from unchanged(subset)


def made_once(name: str, factory: pytest.TempPathFactory, make: Callable[[Path], object]) -> Path:
    """Return a folder that the first test process creates and all test processes share."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            make(folder)
    return folder


@pytest.fixture(scope="session")
def small_folder(cells: AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a reference trained on ``cells`` by the default recipe; tests must not change files."""
    if TRAINED in os.environ:
        return Path(os.environ[TRAINED])
    from spikgpt.training.train import train

    options = TrainOptions(name="small", seed=1)
    return made_once("small", tmp_path_factory, lambda path: save(train(cells, "cell_type", options=options), path))


@pytest.fixture(scope="session")
def small(small_folder: Path) -> Reference:
    """Return the reference in ``small_folder``."""
    return read_reference(small_folder)


@contextmanager
def steps_at_least(minimum: int) -> Iterator[None]:
    """Shorten trainings by the default recipe; 60 steps are enough to distinguish most types."""
    from spikgpt.training.recipes import DEFAULT, RECIPES

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "default", replace(DEFAULT, minimum_steps=minimum))
        yield


@pytest.fixture
def brief() -> Iterator[None]:
    """Shorten trainings by the default recipe for tests that do not depend on the labels."""
    with steps_at_least(0):
        yield


@pytest.fixture(scope="session")
def other_tissue(cells: AnnData, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Return a reference trained on ``cells`` with the gene names of ``foreign`` and other label names."""
    from spikgpt.training.train import train

    adata = cells.copy()
    adata.var_names = np.random.default_rng(0).permutation(cells.var_names.to_numpy())
    adata.obs["cell_type"] = [f"other {label}" for label in cells.obs["cell_type"]]
    options = TrainOptions(name="other tissue", seed=1)
    return read_reference(
        made_once("other", tmp_path_factory, lambda path: save(train(adata, "cell_type", options=options), path))
    )


@pytest.fixture(scope="session")
def shipped() -> SpikGPT:
    """Return the shipped pancreas reference."""
    return SpikGPT.from_pretrained("pancreas")


@pytest.fixture(scope="session")
def query() -> Iterator[AnnData]:
    """Yield 300 cells of the donors human2 and human4, on which no reference of the tests was trained."""
    yield from unchanged(read_cells(QUERY_FILE)[::2][:300].copy())


@pytest.fixture(scope="session")
def few(query: AnnData) -> Iterator[AnnData]:
    """Yield 120 cells of ``query``, enough for composition scaling."""
    yield from unchanged(query[:120].copy())


@pytest.fixture(scope="session")
def foreign(few: AnnData) -> AnnData:
    """Return the cells of ``few`` with permuted gene names, like cells of another tissue."""
    adata = few.copy()
    adata.var_names = np.random.default_rng(0).permutation(few.var_names.to_numpy())
    return adata


@pytest.fixture(scope="session")
def logs(small: Reference, query: AnnData) -> sparse.csr_matrix:
    """Return the log expression of ``query`` for the genes of ``small``, shape (cells, genes)."""
    cells = aligned(small, query)
    return log_normalise(cells.values, cells.totals)


@pytest.fixture(scope="session")
def graph_folder(small: Reference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the exported ``small``; tests must not change files."""
    if TRAINED in os.environ:
        return Path(os.environ[TRAINED])
    from spikgpt_onnx.exporter import export

    return made_once("small-onnx", tmp_path_factory, lambda path: export(exportable(small), path))


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    """Start a loopback Hub without tokens, where anyone may write."""
    with LoopbackHub() as server:
        yield server


@pytest.fixture
def client(hub: LoopbackHub, tmp_path: Path) -> Hub:
    """Return a client of ``hub`` with an empty cache."""
    return Hub(hub.endpoint, cache_dir=tmp_path / "cache")


@pytest.fixture
def annotation() -> Annotation:
    """Return a made-up annotation of twelve cells."""
    confidence = np.linspace(0.1, 0.95, 12).astype(np.float32)
    return Annotation(
        obs_names=pd.Index([f"cell {row}" for row in range(12)]),
        best=np.arange(12, dtype=np.int16) % 2,
        label_ids=("CL:0000171", "CL:0000169"),
        broad=np.arange(12, dtype=np.int16) % 2 * 3,
        broad_names=("alpha", "beta", "Unknown", "islet cell"),
        broad_ids=("CL:0000171", "CL:0000169", "unknown", "CL:0008024"),
        rejected=confidence < 0.5,
        typicality=confidence / np.float32(2),
        rule=RejectionRule("OOD score above 0", unknown_rate=0.05, ood=OODRule(*np.zeros((4, 1, 2)))),
        compatibility=Compatibility(LIKE, "made up", {}),
        confidence=confidence,
        probabilities=np.stack([confidence, 1 - confidence], axis=1),
        empty=np.zeros(12, dtype=bool),
        label_names=("alpha", "beta"),
        reference_origin=None,
        smoothed=True,
        reference_name="hand-made",
        input_report=InputReport("X", "counts", "reference", 5, 7),
    )


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Start a browser, or skip the test if no browser is installed.

    Until playwright ends, an event loop runs in this thread, and other tests cannot start another loop.
    """
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is absent")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(BROWSER_FLAGS))
        yield browser
        browser.close()
