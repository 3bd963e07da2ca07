"""Methods of the benchmark, with their modules, packages, licences and citations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Method:
    """A method that labels cells.

    Attributes
    ----------
    name
        Name on the command line: lower case, with hyphens.
    title
        Name in tables and figures.
    module
        Full name of the module; its ``fit(reference, settings)`` returns a function from a query to a
        :class:`spikgpt_benchmark.methods.result.MethodResult`.
    packages
        Distributions that have to be installed, such as ``celltypist``.
    environment
        Requirements of a virtual environment of the method's own; None for the environment of SpikGPT.
    rejects
        True if the method has its own cut-off, below which cells stay without a label.
    options
        Options of the module. The user has to give a value for an option that is empty.
    programs
        Commands that have to be on the path, such as ``Rscript``.
    deterministic
        True if the seed makes no difference, so that one run is enough.
    """

    name: str
    title: str
    module: str
    packages: tuple[str, ...] = ()
    environment: tuple[str, ...] | None = None
    licence: str = ""
    citation: str = ""
    rejects: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    programs: tuple[str, ...] = ()
    deterministic: bool = False


_OWN = "spikgpt_benchmark.methods."


def _spikgpt(name: str, title: str, recipe: str) -> Method:
    """Return the method SpikGPT with a training recipe."""
    return Method(
        name,
        title,
        f"{_OWN}spikgpt",
        packages=("spikgpt", "torch", "scanpy", "scikit-learn", "spikingjelly"),
        licence="MIT",
        citation="This package",
        rejects=True,
        options={"recipe": recipe},
    )


def _embedded(name: str, title: str, classifier: str, citation: str = "This package") -> Method:
    """Return the method of a plain classifier on the principal components that SpikGPT is trained on."""
    packages = ("spikgpt", "scanpy", "scikit-learn")
    options = {"classifier": classifier}
    return Method(name, title, f"{_OWN}embeddings.pca", packages, None, "MIT", citation, options=options)


def _scgpt(name: str, title: str, classifier: str) -> Method:
    """Return the method of a classifier on a pretrained scGPT's embedding; the user gives the checkpoint."""
    return Method(
        name,
        title,
        f"{_OWN}embeddings.scgpt",
        packages=("spikgpt", "torch", "scikit-learn"),
        licence="MIT",
        citation="Cui et al. 2024, doi:10.1038/s41592-024-02201-0",
        options={"classifier": classifier, "scgpt": ""},
    )


def _published(name: str, title: str, citation: str, packages: tuple[str, ...] = (), *, rejects: bool = True) -> Method:
    """Return a method that has no Python package, and is implemented here from its publication."""
    module = f"{_OWN}published.{name.replace('-', '_')}"
    return Method(name, title, module, packages, None, "MIT", citation, rejects, deterministic=not packages)


_SCMAP = "Kiselev et al. 2018, doi:10.1038/nmeth.4644"
METHODS = (
    _spikgpt("spikgpt", "SpikGPT", "default"),
    _spikgpt("spikgpt-paper", "SpikGPT, the paper's recipe", "paper"),
    _embedded("logistic-regression", "Logistic regression", "logistic"),
    _embedded("knn", "Nearest neighbours", "knn"),
    Method(
        "singler",
        "SingleR",
        f"{_OWN}packages.singler",
        packages=("singler",),
        licence="MIT",
        citation="Aran et al. 2019, doi:10.1038/s41590-018-0276-y",
        rejects=True,
        deterministic=True,
    ),
    Method(
        "scanvi",
        "scANVI",
        f"{_OWN}packages.scanvi",
        # scvi-tools imports torchvision if installed, and fails if torchvision was built for another torch.
        environment=("scanpy>=1.10", "scvi-tools>=1.4"),
        licence="BSD-3-Clause",
        citation="Xu et al. 2021, doi:10.15252/msb.20209620",
    ),
    Method(
        "celltypist",
        "CellTypist",
        f"{_OWN}packages.celltypist",
        # The training of CellTypist passes an argument that scikit-learn 1.8 does not accept.
        environment=("celltypist==1.7.1", "scikit-learn<1.8"),
        licence="MIT",
        citation="Domínguez Conde et al. 2022, doi:10.1126/science.abl5197",
        rejects=True,
    ),
    Method(
        "singlecellnet",
        "SingleCellNet",
        f"{_OWN}packages.singlecellnet",
        packages=("pysinglecellnet", "scanpy"),
        licence="MIT",
        citation="Tan and Cahan 2019, doi:10.1016/j.cels.2019.06.004",
        rejects=True,
    ),
    Method(
        "symphony",
        "Symphony",
        f"{_OWN}packages.symphony",
        packages=("symphonypy", "harmonypy", "scanpy"),
        licence="MIT, with harmonypy GPL-3.0",
        citation="Kang et al. 2021, doi:10.1038/s41467-021-25957-x",
    ),
    Method(
        "harmony-knn",
        "Harmony + kNN",
        f"{_OWN}packages.harmony",
        packages=("harmonypy", "scanpy", "scikit-learn"),
        licence="GPL-3.0",
        citation="Korsunsky et al. 2019, doi:10.1038/s41592-019-0619-0",
    ),
    _published("scmap-cluster", "scmap-cluster", _SCMAP),
    _published("scmap-cell", "scmap-cell", _SCMAP, ("scikit-learn",)),
    _published("scibet", "SciBet", "Li et al. 2020, doi:10.1038/s41467-020-15523-2", rejects=False),
    _published(
        "scpred",
        "scPred",
        "Alquicira-Hernandez et al. 2019, doi:10.1186/s13059-019-1862-5",
        ("scanpy", "scikit-learn", "symphonypy", "harmonypy"),
    ),
    _scgpt("scgpt-head", "scGPT, its own head", "head"),
    _scgpt("scgpt-knn", "scGPT, nearest neighbours", "knn"),
    Method(
        "garnett",
        "Garnett",
        f"{_OWN}rscripts.garnett",
        licence="MIT",
        citation="Pliner et al. 2019, doi:10.1038/s41592-019-0535-3",
        rejects=True,
        options={"markers": ""},
        programs=("Rscript",),
    ),
    Method(
        "seurat-cca",
        "Seurat CCA",
        f"{_OWN}rscripts.seurat",
        licence="MIT",
        citation="Stuart et al. 2019, doi:10.1016/j.cell.2019.05.031",
        programs=("Rscript",),
    ),
    Method(
        "singler-r",
        "SingleR in R",
        f"{_OWN}rscripts.singler_r",
        licence="GPL-3.0",
        citation="Aran et al. 2019, doi:10.1038/s41590-018-0276-y",
        rejects=True,
        programs=("Rscript",),
        deterministic=True,
    ),
)
