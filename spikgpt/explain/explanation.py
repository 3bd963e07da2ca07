"""Explanation of a query: the genes behind its labels, clusters or cells, and the reasons for Unknown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from spikgpt.errors import DataError, printable
from spikgpt.explain.labels import GeneEvidence, LabelGenes, Role
from spikgpt.explain.unknown import WhyUnknown
from spikgpt.options import KEY_ADDED
from spikgpt.tables import html_table, html_view
from spikgpt.types import Rows

GroupKind = Literal["label", "cluster", "cell"]

# Groups and genes of each role that a printed explanation shows.
GROUPS_SHOWN, GENES_SHOWN = 30, 8
# Role of a gene that Unknown cells express above every label, in a table.
ABOVE = "above every label"
COLUMNS = (
    *("group", "cells", "label", "unknown", "runner_up", "role", "gene", "attribution", "mean", "expressed"),
    *("label_mean", "runner_up_mean", "absent"),
)
UNKNOWN_COLUMNS = ("group", "nearest", "measure", "value", "typical", "unusual", "compared_with")


@dataclass(frozen=True)
class ExplainedGroup:
    """A label, a cluster or a cell.

    Attributes
    ----------
    name
        Label, cluster or name of the cell.
    genes
        Genes behind the explained label.
    unknown
        Reasons for Unknown; None for a group that kept its label.
    """

    name: str
    genes: LabelGenes
    unknown: WhyUnknown | None = None


@dataclass(frozen=True, repr=False)
class Explanation:
    """Genes behind the labels of a query, and the reasons for Unknown.

    Attributes
    ----------
    groups
        Explained labels, clusters or cells.
    kind
        "label", "cluster" or "cell".
    reference
        Name of the reference.
    gene_names
        Symbols of the genes that the attributions are of.
    notes
        Sentences on everything unusual.
    """

    groups: tuple[ExplainedGroup, ...]
    kind: GroupKind
    reference: str
    gene_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    # Finds the row in var of each gene of ``gene_names``, -1 for none.
    var_rows: Callable[[AnnData], Rows] | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        lines = [f"Explanation of {self._size()} by {printable(self.reference)}:"]
        for group in self.groups[:GROUPS_SHOWN]:
            supporting = gene_list(group.genes, "supporting") or "no genes"
            lines.append(f"  {printable(group.name)} ({self._facts(group)}): {supporting}")
        return "\n".join([*lines, *self._rest()])

    def _repr_html_(self) -> str:
        roles: tuple[Role, ...] = ("supporting", "conflicting", "missing")
        shown = self.groups[:GROUPS_SHOWN]
        names = (self.kind, "cells", "label", "runner-up", *(f"{role} genes" for role in roles))
        rows = [
            (
                *(group.name, str(group.genes.cells), group.genes.label, group.genes.runner_up),
                *(gene_list(group.genes, role) for role in roles),
            )
            for group in shown
        ]
        tables = [html_table(names, rows, numbers=len(names))]
        if reasons := [(group.name, " ".join(why.sentences())) for group in shown if (why := group.unknown)]:
            tables.append(html_table(("Unknown", "reasons"), reasons, numbers=2))
        heading = f"Explanation of {self._size()} by {self.reference}"
        return html_view(heading, ["A minus sign marks genes that count by their absence."], tables, self._rest())

    def _facts(self, group: ExplainedGroup) -> str:
        """Return the label of a cluster or a cell, the number of cells, and the runner-up."""
        genes = group.genes
        label = f"{'nearest to ' if group.unknown else ''}{printable(genes.label)}, " if self.kind != "label" else ""
        return f"{label}{genes.cells} cell{'' if genes.cells == 1 else 's'}, not {printable(genes.runner_up)}"

    def _size(self) -> str:
        count = len(self.groups)
        return f"{count} {self.kind}{'' if count == 1 else 's'}"

    def _rest(self) -> list[str]:
        """Return a line on the groups that are not shown, and the notes."""
        more = len(self.groups) - GROUPS_SHOWN
        lines = [f"{more} more; table() has all genes."] if more > 0 else []
        return [*lines, *map(printable, self.notes)]

    def table(self) -> pd.DataFrame:
        """Return a table with one row per group and gene.

        The columns ``attribution``, ``mean``, ``expressed``, ``label_mean``, ``runner_up_mean`` and ``absent`` are
        those of :class:`spikgpt.explain.labels.GeneEvidence`. Genes of the role "above every label" stand above every
        label of the reference in Unknown cells; ``runner_up`` is then the label that expresses the gene most.
        """
        rows = [row for group in self.groups for row in _rows(group)]
        table = pd.DataFrame(rows, columns=list(COLUMNS))
        numbers = ("attribution", "mean", "expressed", "label_mean", "runner_up_mean")
        return table.astype(dict.fromkeys(numbers, float) | dict.fromkeys(("unknown", "absent"), bool))

    def unknown_table(self) -> pd.DataFrame:
        """Return a table with one row per Unknown group and measure.

        ``typical`` is the median of the cells or labels in ``compared_with``: cells that kept their label, or, for the
        label match, other labels of the query.
        """
        rows = [
            (group.name, why.nearest, one.name, one.value, one.typical, one.unusual, one.compared_with)
            for group in self.groups
            if (why := group.unknown) is not None
            for one in why.measures
        ]
        table = pd.DataFrame(rows, columns=list(UNKNOWN_COLUMNS))
        return table.astype({"value": float, "typical": float, "unusual": bool})

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: all figures but the attributions of genes without a role."""
        groups = []
        for group in self.groups:
            genes = asdict(group.genes)
            del genes["attributions"]
            why = None if group.unknown is None else asdict(group.unknown) | {"sentences": group.unknown.sentences()}
            groups.append({"name": group.name, **genes, "unknown": why})
        return {"reference": self.reference, "kind": self.kind, "groups": groups, "notes": list(self.notes)}

    def write_to(self, adata: AnnData, *, key_added: str = KEY_ADDED) -> None:
        """Write the explanation into the annotated AnnData.

        ``uns["spikgpt_genes"]`` gets :meth:`table`, and ``uns["spikgpt_unknown"]`` gets :meth:`unknown_table`.
        ``varm["spikgpt_attributions"]`` gets the attribution of each gene in each group, shape (genes, groups). The
        value is NaN for genes that the network does not read. ``uns["spikgpt_attribution_groups"]`` gets the names of
        the groups. ``key_added`` replaces the prefix "spikgpt".

        Raises
        ------
        DataError
            When the AnnData lacks the genes of the explained query.
        """
        assert self.var_rows is not None
        rows = self.var_rows(adata)
        there = rows >= 0
        if not there.any():
            msg = (
                f"This AnnData has none of the {len(rows)} genes of the explained query; expected the same AnnData. "
                "Pass the AnnData that was explained."
            )
            raise DataError(msg)
        values = np.full((adata.n_vars, len(self.groups)), np.nan)
        for column, group in enumerate(self.groups):
            values[rows[there], column] = group.genes.attributions[there]
        adata.varm[f"{key_added}_attributions"] = values
        adata.uns[f"{key_added}_attribution_groups"] = np.array([group.name for group in self.groups], dtype=object)
        adata.uns[f"{key_added}_genes"] = self.table()
        adata.uns[f"{key_added}_unknown"] = self.unknown_table()


def gene_list(genes: LabelGenes, role: Role, count: int = GENES_SHOWN) -> str:
    """Return the strongest genes of a role; a minus sign marks genes that count by their absence."""
    return ", ".join(map(_gene, genes.of_role(role)[:count]))


def _gene(gene: GeneEvidence) -> str:
    sign = "-" if gene.absent and gene.role == "supporting" else ""
    return f"{sign}{printable(gene.gene)}"


def _rows(group: ExplainedGroup) -> list[tuple[Any, ...]]:
    """Return the rows of a group in a table."""
    genes, why = group.genes, group.unknown
    head = group.name, genes.cells, genes.label, why is not None
    rows: list[tuple[Any, ...]] = [
        (
            *(*head, genes.runner_up, one.role, one.gene, one.attribution, one.mean, one.expressed),
            *(one.label_mean, one.runner_up_mean, one.absent),
        )
        for one in genes.genes
    ]
    for above in () if why is None else why.genes:
        figures = above.gene, None, above.mean, None, None, above.highest_mean, False
        rows.append((*head, above.highest_label, ABOVE, *figures))
    return rows
