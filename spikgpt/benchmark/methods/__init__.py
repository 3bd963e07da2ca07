"""The methods of the benchmark: which there are, what each needs, and where it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Method:
    """A way to label cells.

    Attributes
    ----------
    name
        Of the command line: lower case, with hyphens.
    title
        Of tables and figures.
    module
        In full; its ``run(reference, query, settings)`` returns an :class:`spikgpt.benchmark.methods.answer.Answer`.
    packages
        Distributions that have to be installed, such as ``celltypist``; ``spikgpt`` where its code is used.
    environment
        None for the environment of SpikGPT; else the requirements of a virtual environment of its own.
    rejects
        Whether it leaves cells without a label, by a cut-off of its own.
    options
        What the module reads in ``settings.options``. One that is empty has to be given by who runs the benchmark.
    programs
        Commands that have to be on the path, such as ``Rscript``.
    deterministic
        Whether the seed makes no difference, so that one run is enough.
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


_OWN = "spikgpt.benchmark.methods."


def _spikgpt(name: str, title: str, recipe: str) -> Method:
    """Return SpikGPT as it is trained by a recipe."""
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


METHODS = (
    _spikgpt("spikgpt", "SpikGPT", "default"),
    _spikgpt("spikgpt-paper", "SpikGPT, the paper's recipe", "paper"),
)
