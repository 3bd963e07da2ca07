"""Explanation of a query: the genes behind its labels, clusters or cells, and the reasons for Unknown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from anndata import AnnData

from spikgpt.errors import DataError, printable, with_noun
from spikgpt.explain.labels import GeneEvidence, LabelGenes, Role
from spikgpt.explain.unknown import WhyUnknown
from spikgpt.options import KEY_ADDED
from spikgpt.tables import Markup, html_table, html_view, unbroken
from spikgpt.types import Rows

GroupKind = Literal["label", "cluster", "cell"]

# Largest number of groups, and of genes of each role, in a printed explanation.
GROUPS_SHOWN, GENES_SHOWN = 30, 8
ROLES: tuple[Role, ...] = get_args(Role)
MINUS_LINE = "A minus sign marks genes that count by their absence."
NOT_MEASURED = "not measured: "
NOT_MEASURED_LINE = 'Genes after "not measured" are not in the query. Their absence says nothing about the cells.'
# Name in a table for the role of a gene that Unknown cells express more than every label of the reference.
ABOVE = "above every label"
COLUMNS = (
    *("group", "reference", "cells", "label", "label_share", "agreement", "unknown", "runner_up", "role", "gene"),
    "measured",
    *("attribution", "mean", "expressed", "label_mean", "runner_up_mean", "absent"),
)
UNKNOWN_COLUMNS = ("group", "nearest", "measure", "value", "typical", "unusual", "compared_with")


@dataclass(frozen=True)
class ExplainedGroup:
    """Explanation of one group of cells: the cells of a label or a cluster, or a single cell.

    Attributes
    ----------
    name
        Label, cluster or name of the cell.
    genes
        Genes behind the explained label.
    unknown
        Reasons for Unknown; None for a group that kept its label.
    size
        Number of cells of the group in the query's sample; None if all these cells are explained. In an Unknown
        cluster, only Unknown cells are explained. In any other cluster, only known cells are explained.
    share
        Share of the cells of the group that have the explained label, or that are Unknown and nearest to this label.
    reference
        Name of the reference that gave the label; empty if one reference annotated the query.
    """

    name: str
    genes: LabelGenes
    unknown: WhyUnknown | None = None
    size: int | None = None
    share: float = 1.0
    reference: str = ""

    @property
    def cells(self) -> int:
        """Number of cells of the group."""
        return self.genes.cells if self.size is None else self.size

    def label_text(self, kind: GroupKind) -> str:
        """Return the explained label of a cluster or a cell, with the share of the cluster that has the label."""
        nearest = "nearest to " if self.unknown else ""
        if kind == "cell":
            share = f" by {printable(self.reference)}" if self.reference else ""
            share += "" if self.share else " (not its label)"
        else:
            share = f", {'<1%' if 0 < self.share < 0.01 else '>99%' if 0.99 < self.share < 1 else f'{self.share:.0%}'}"
        return f"{nearest}{printable(self.genes.label)}{share}"

    def facts(self, kind: GroupKind) -> str:
        """Return a text with the number of cells, the label of a cluster or a cell, and the runner-up."""
        label = [] if kind == "label" else [self.label_text(kind)]
        return ", ".join([with_noun(self.cells, "cell"), *label, f"runner-up {printable(self.genes.runner_up)}"])


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
        Name of the reference; several names are joined by " + ".
    gene_names
        Symbols of the genes that have attributions.
    notes
        Sentences on everything unusual.
    """

    groups: tuple[ExplainedGroup, ...]
    kind: GroupKind
    reference: str
    gene_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    # Returns the row in ``var`` of each gene of ``gene_names``, and -1 for a gene that ``var`` lacks.
    var_rows: Callable[[AnnData], Rows] | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        lines = [f"Explanation of {self._size()} by {printable(self.reference)}:"]
        for group in self.groups[:GROUPS_SHOWN]:
            supporting = gene_list(group.genes, "supporting") or "no genes"
            missing = gene_list(group.genes, "missing")
            missing = missing and f"; missing: {missing}"
            lines.append(f"  {printable(group.name)} ({group.facts(self.kind)}): {supporting}{missing}")
        return "\n".join([*lines, *legend(self.groups[:GROUPS_SHOWN], ("supporting", "missing")), *self._rest()])

    def _repr_html_(self) -> str:
        shown, named = self.groups[:GROUPS_SHOWN], self.kind != "label"
        names = (self.kind, "cells", *(["label"] if named else []), "runner-up", *(f"{role} genes" for role in ROLES))
        rows = [
            (
                *(group.name, str(group.cells), *([group.label_text(self.kind)] if named else [])),
                *(group.genes.runner_up, *(_gene_cell(group.genes, role) for role in ROLES)),
            )
            for group in shown
        ]
        tables = [html_table(names, rows, numbers=len(names))] if rows else []
        if reasons := [(group.name, " ".join(why.sentences())) for group in shown if (why := group.unknown)]:
            tables.append(html_table(("Unknown", "reasons"), reasons, numbers=2))
        heading = f"Explanation of {self._size()} by {self.reference}"
        return html_view(heading, legend(shown), tables, self._rest())

    def _size(self) -> str:
        return with_noun(len(self.groups), self.kind)

    def _rest(self) -> list[str]:
        """Return a line on the groups that are not shown, and the notes."""
        more = len(self.groups) - GROUPS_SHOWN
        lines = [f"{more} more; table() has all genes."] if more > 0 else []
        return [*lines, *map(printable, self.notes)]

    def table(self) -> pd.DataFrame:
        """Return a table with one row per group and gene.

        ``reference`` is the reference that gave the label. ``label_share`` is the share of the ``cells`` of the group
        that have the label. ``agreement`` is the share of the explained cells to which the network alone gives the
        label. ``measured`` is False for genes that the query lacks. The columns ``attribution``, ``mean``,
        ``expressed``, ``label_mean``, ``runner_up_mean`` and ``absent`` are those of
        :class:`spikgpt.explain.labels.GeneEvidence`. Unknown cells express a gene of the role "above every label" more
        than every label of the reference. For such a gene, ``runner_up`` is the label with the highest expression.
        """
        rows = [row for group in self.groups for row in _rows(group, group.reference or self.reference)]
        table = pd.DataFrame(rows, columns=list(COLUMNS))
        numbers = ("label_share", "agreement", "attribution", "mean", "expressed", "label_mean", "runner_up_mean")
        return table.astype(dict.fromkeys(numbers, float) | dict.fromkeys(("unknown", "measured", "absent"), bool))

    def unknown_table(self) -> pd.DataFrame:
        """Return a table with one row per Unknown group and measure.

        ``typical`` is the median of the cells or labels in ``compared_with``: cells that kept their label, or, for the
        label match, other labels of the query.
        """
        rows = [
            (
                group.name,
                why.nearest,
                measure.name,
                measure.value,
                measure.typical,
                measure.unusual,
                measure.compared_with,
            )
            for group in self.groups
            if (why := group.unknown) is not None
            for measure in why.measures
        ]
        table = pd.DataFrame(rows, columns=list(UNKNOWN_COLUMNS))
        return table.astype({"value": float, "typical": float, "unusual": bool})

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as plain JSON values, without the attributions of genes that have no role."""
        groups = []
        for group in self.groups:
            genes = asdict(group.genes) | {"cells": group.cells, "label_share": group.share}
            genes["genes"] = [asdict(gene) | {"measured": gene.measured} for gene in group.genes.genes]
            del genes["attributions"]
            why = None if group.unknown is None else asdict(group.unknown) | {"sentences": group.unknown.sentences()}
            reference = group.reference or self.reference
            groups.append({"name": group.name, "reference": reference, **genes, "unknown": why})
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
        has_gene = rows >= 0
        if not has_gene.any():
            msg = (
                f"This AnnData has none of the {len(rows)} genes of the explained query; expected the same AnnData. "
                "Pass the AnnData that was explained."
            )
            raise DataError(msg)
        values = np.full((adata.n_vars, len(self.groups)), np.nan)
        for column, group in enumerate(self.groups):
            # Genes without an attribution are left out: two names in ``gene_names`` may mean the same row of var.
            read = has_gene & ~np.isnan(group.genes.attributions)
            values[rows[read], column] = group.genes.attributions[read]
        adata.varm[f"{key_added}_attributions"] = values
        adata.uns[f"{key_added}_attribution_groups"] = np.array([group.name for group in self.groups], dtype=object)
        adata.uns[f"{key_added}_genes"] = self.table()
        adata.uns[f"{key_added}_unknown"] = self.unknown_table()


def gene_list(genes: LabelGenes, role: Role, count: int = GENES_SHOWN) -> str:
    """Return the strongest genes of a role as text, measured genes first; :func:`legend` explains the marks."""
    measured, lacking = _names(genes, role, count)
    return "; ".join([*filter(None, [", ".join(measured)]), *([NOT_MEASURED + ", ".join(lacking)] if lacking else [])])


def legend(groups: Sequence[ExplainedGroup], roles: Sequence[Role] = ROLES, count: int = GENES_SHOWN) -> list[str]:
    """Return a sentence on each mark that occurs in the lists of genes of the groups."""
    shown = [gene for group in groups for role in roles for gene in group.genes.of_role(role)[:count]]
    lines = [MINUS_LINE] if any(map(_has_minus, shown)) else []
    return lines if all(gene.measured for gene in shown) else [*lines, NOT_MEASURED_LINE]


def _names(genes: LabelGenes, role: Role, count: int) -> tuple[list[str], list[str]]:
    """Return the strongest genes of a role that the query has, and those that the query lacks."""
    shown = genes.of_role(role)[:count]
    return [_gene(gene) for gene in shown if gene.measured], [_gene(gene) for gene in shown if not gene.measured]


def _gene_cell(genes: LabelGenes, role: Role) -> Markup:
    """Return the strongest genes of a role as HTML, measured genes first."""
    measured, lacking = map(unbroken, _names(genes, role, GENES_SHOWN))
    return Markup("; ".join([*filter(None, [measured]), *([NOT_MEASURED + lacking] if lacking else [])]))


def _has_minus(gene: GeneEvidence) -> bool:
    return gene.absent and gene.role == "supporting"


def _gene(gene: GeneEvidence) -> str:
    return f"{'-' if _has_minus(gene) else ''}{printable(gene.gene)}"


def _rows(group: ExplainedGroup, reference: str) -> list[tuple[Any, ...]]:
    """Return the rows of a group for :meth:`Explanation.table`, one for each gene."""
    genes, why = group.genes, group.unknown
    head = group.name, reference, group.cells, genes.label, group.share, genes.agreement, why is not None
    rows: list[tuple[Any, ...]] = [
        (
            *(*head, genes.runner_up, gene.role, gene.gene, gene.measured, gene.attribution, gene.mean, gene.expressed),
            *(gene.label_mean, gene.runner_up_mean, gene.absent),
        )
        for gene in genes.genes
    ]
    for above in () if why is None else why.genes:
        figures = above.gene, True, None, above.mean, None, None, above.highest_mean, False
        rows.append((*head, above.highest_label, ABOVE, *figures))
    return rows
