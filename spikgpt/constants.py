"""Constants that were chosen on data, with their units and meaning.

The constants were chosen on the tuning tasks only. ``docs/development/tried.md`` has the tables of these choices, and
the variants that did worse. Each class belongs to one module, which its docstring names.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class SmoothingConstants:
    """Averaging of label probabilities over nearest neighbours; see :mod:`spikgpt.scoring.smoothing`.

    Attributes
    ----------
    least_cells
        Cells of a query below which nothing is averaged: the nearest cell may then be of another type.
    neighbours
        Neighbours whose probabilities are averaged with a cell's own.
    expression_neighbours
        Neighbours whose expression is averaged with a cell's own for the in-distribution score.
    largest_share
        Largest share of the neighbours in the averaged probabilities.
    bandwidth
        Bandwidth of the Gaussian kernel beyond a neighbour's radius, in radii.
    """

    least_cells: int = 100
    neighbours: int = 5
    expression_neighbours: int = 14
    largest_share: float = 0.5
    bandwidth: float = 0.5


@dataclass(frozen=True)
class QueryLDAConstants:
    """Linear discriminant analysis of the query; see :mod:`spikgpt.scoring.query_lda`.

    Attributes
    ----------
    weight
        Weight of the discriminant, a difference of log probabilities.
    shrinkage
        Share of the covariance within labels that is replaced by a multiple of the identity.
    least_cells
        Sum of the probabilities of a label, in cells, below which the label is not reweighted.
    """

    weight: float = 0.05
    shrinkage: float = 0.1
    least_cells: float = 1.0


@dataclass(frozen=True)
class ScoreConstants:
    """In-distribution score and marker excess; see :mod:`spikgpt.scoring.ood_scorer`.

    Attributes
    ----------
    gene_power
        Power of a gene's standard deviation between labels that weights the gene in the correlation.
    energy_weight
        Weight of the energy.
    effect_cells, effect_labels, effect_sample
        The batch effect needs so many cells of a label and so many labels; at most so many cells of each are used.
    excess_genes
        Genes whose expression above every label is averaged.
    noise_floor
        Added to the standard error of mean log expression.
    ridge
        Added to the variances within labels, as a share of the mean variance.
    within_share
        Added to the deviation of each gene within labels, as a share of the median deviation.
    """

    gene_power: int = 4
    energy_weight: float = 0.2
    effect_cells: int = 5
    effect_labels: int = 3
    effect_sample: int = 500
    excess_genes: int = 10
    noise_floor: float = 0.05
    ridge: float = 1e-4
    within_share: float = 0.1


@dataclass(frozen=True)
class LabelMatchConstants:
    """Agreement of a label's mean profile with the reference; see :mod:`spikgpt.scoring.label_match`.

    Attributes
    ----------
    least_cells
        Cells of a label in a batch below which the label has no values of its own.
    largest_correlation
        The contrast is -log(largest_correlation - r).
    marker_weight
        Weight of the marker deficit against the contrast.
    usual_markers
        Usual marker level of a label, before the level of the other labels in the batch is known.
    markers, least_markers
        Number of marker genes of a label, and the least number.
    least_difference
        Least denominator of the level of a marker gene, in log expression.
    marker_range
        Bounds of the level of a marker gene.
    least_expression
        Least mean expression, in counts of 10,000, of genes that a panel is recognised by.
    """

    least_cells: int = 10
    largest_correlation: float = 1.02
    marker_weight: float = 1.5
    usual_markers: float = 0.7
    markers: int = 20
    least_markers: int = 10
    least_difference: float = 0.05
    marker_range: tuple[float, float] = (-0.5, 1.5)
    least_expression: float = 0.1


@dataclass(frozen=True)
class OODRuleConstants:
    """Out-of-distribution rule; the names in brackets are those of the formula in :mod:`spikgpt.scoring.ood_rule`.

    Attributes
    ----------
    largest_excess
        Largest marker excess, above the median of the batch, that is subtracted from the score of a cell.
    neighbour_share
        Share of the neighbours in each of the two averages of the score.
    quantile
        Quantile of the scores of a label that stands for the label (q).
    held_out_share
        Share of the label's held-out median that is subtracted (0.5 h).
    low_share
        Share of a label's low quantile that is put down to a batch effect (0.65).
    match_weight, excess_weight
        Weights of the label match and of the excess of cells (0.6 and 0.6).
    offset
        Distance of the cut-off below the quantile for a label without match (1.0).
    present_weight, present_share
        Weight of the presence in another batch (0.4), and least ratio of the shares of cells there and here.
    share_floor
        Added to shares of cells before their ratio is taken.
    group_cells, group_gap, group_deviations
        Two groups have so many cells each. Their means differ by so much, in scores and in deviations within groups.
    group_margin
        A lower group is Unknown as a whole if its mean margin is below this.
    """

    largest_excess: float = 0.5
    neighbour_share: float = 0.8
    quantile: float = 0.9
    held_out_share: float = 0.5
    low_share: float = 0.65
    match_weight: float = 0.6
    excess_weight: float = 0.6
    offset: float = 1.0
    present_weight: float = 0.4
    present_share: float = 2 / 3
    share_floor: float = 0.01
    group_cells: int = 15
    group_gap: float = 0.6
    group_deviations: float = 4.0
    group_margin: float = 0.25


@dataclass(frozen=True)
class RejectionConstants:
    """Cut-offs other than the out-of-distribution rule; see :mod:`spikgpt.scoring.rejection`.

    Attributes
    ----------
    least_accuracy
        Simulated accuracy below which a query has few of the reference's genes.
    largest_error
        Largest mean expected error, 1 - confidence, of the labelled cells of a query with few genes.
    spread_cells
        Cells of a label that are needed to estimate the spread of its scores.
    """

    least_accuracy: float = 0.95
    largest_error: float = 0.07
    spread_cells: int = 20


@dataclass(frozen=True)
class CompatibilityConstants:
    """Check whether a reference suits a query; see :mod:`spikgpt.scoring.compatibility`.

    Attributes
    ----------
    least_cells, least_share
        Labels that are compared with each other have so many cells, and such a share of the query.
    contrast_weight, other_weight
        Weights of the mean contrast and of the markers of other labels in the similarity.
    least_similarity
        Least similarity of a query of the same tissue and species.
    least_correlation
        Least correlation there. It also stands for the correlation where no two labels can be compared.
    other_excess
        A query is refused if the markers of other labels exceed the cells' own markers by more than this.
    several_labels
        Number of labels from which on the correlation and the contrast alone can refuse a query.
    far_contrast, far_correlation
        Least mean contrast of cells that lie far, if the correlation is below far_correlation.
    near_contrast, near_correlation
        Least mean contrast otherwise, if the correlation is below near_correlation. Above near_correlation, a low
        contrast comes from a missing type that took over a label.
    marker_share
        Least share of cells whose labels have enough marker genes.
    far_shift
        Loss of the in-distribution score above which cells lie far from the reference.
    largest_shift
        Loss above which a query without similarity and correlation is refused.
    agreement_cells
        Number of cells that are sampled for the agreement of cells with their labels.
    least_agreement, largest_unexplained
        A query is refused if the correlation of its cells with their labels is lower, and the variance that the labels
        do not explain, as a share of the variance of the reference, is larger.
    another_study
        Ratio of expected and guaranteed share of false rejections above which the query is from another study.
    """

    least_cells: int = 10
    least_share: float = 0.05
    contrast_weight: float = 0.2
    other_weight: float = 0.8
    least_similarity: float = 1.0
    least_correlation: float = 0.65
    other_excess: float = 0.05
    several_labels: int = 3
    far_contrast: float = 1.0
    far_correlation: float = 0.85
    near_contrast: float = 0.6
    near_correlation: float = 0.9
    marker_share: float = 0.5
    far_shift: float = 1.2
    largest_shift: float = 3.0
    agreement_cells: int = 1000
    least_agreement: float = 0.45
    largest_unexplained: float = 0.18
    another_study: float = 2.0


@dataclass(frozen=True)
class ChoiceConstants:
    """Choice of a reference for a query; see :mod:`spikgpt.choice`.

    Attributes
    ----------
    sample_cells
        Largest number of cells that references are compared with.
    least_correlation, least_agreement
        Least correlation of the profiles of labels, and of the differences between labels, of a reference that suits a
        query.
    tie
        Difference of two references that suit a query about equally well, in the correlation times the share of cells
        that are not Unknown.
    """

    sample_cells: int = 1000
    least_correlation: float = 0.82
    least_agreement: float = 0.5
    tie: float = 0.02


@dataclass(frozen=True)
class BatchConstants:
    """Inference of batches; see :mod:`spikgpt.embedding.batches`.

    Attributes
    ----------
    least_labels
        Labels that must fall into two groups.
    least_agreement
        Least cosine of a label's difference between groups with the sum of these differences over labels.
    least_length
        Least length of that sum, divided by the number of labels with enough cells.
    least_concordance
        Least concordance of the differences between labels in two batches.
    directions, rounds
        Principal components that are tried, and refinements of each.
    largest_number
        Largest number of batches.
    """

    least_labels: int = 3
    least_agreement: float = 0.5
    least_length: float = 0.55
    least_concordance: float = 0.7
    directions: int = 6
    rounds: int = 3
    largest_number: int = 8


@dataclass(frozen=True)
class ScalingConstants:
    """Scaling of a query's genes; see :mod:`spikgpt.embedding.pca`.

    Attributes
    ----------
    least_cells
        Cells below which ``auto`` takes the reference's scaling.
    compared_cells
        Cells on which the two scalings are compared.
    shift_cells
        Cells of a label among the compared cells that the shift needs.
    noted_change
        Share of labels that change with the scaling above which a note says so.
    spread_floor, spread_range
        Added to deviations of log expression before their ratio is taken, and bounds of the ratio.
    """

    least_cells: int = 100
    compared_cells: int = 1000
    shift_cells: int = 10
    noted_change: float = 0.1
    spread_floor: float = 0.3
    spread_range: tuple[float, float] = (0.3, 3.0)


@dataclass(frozen=True)
class GeneConstants:
    """Imputation of missing genes, and the simulation of its accuracy; see :mod:`spikgpt.embedding.imputation`.

    Attributes
    ----------
    few_missing
        Share of missing genes up to which no accuracy is simulated.
    simulated_cells
        Simulated cells of each label.
    least_accuracy
        Simulated accuracy below which a query is refused.
    least_genes
        Genes below which a query is refused.
    evidence_weight
        Weight of the evidence for a label, as genes depend on each other.
    least_noise
        Least variance of a scaled gene around its expectation.
    ridge
        Added to the covariance of the scores, as a share of the mean variance.
    """

    few_missing: float = 0.1
    simulated_cells: int = 30
    least_accuracy: float = 0.5
    least_genes: int = 10
    evidence_weight: float = 0.5
    least_noise: float = 0.05
    ridge: float = 1e-6


@dataclass(frozen=True)
class QueryPCAConstants:
    """Principal components of the query; see :mod:`spikgpt.embedding.query_pca`.

    Attributes
    ----------
    components
        Number of components.
    spread_floor
        Added to the deviation of each gene before scaling.
    """

    components: int = 30
    spread_floor: float = 0.3


@dataclass(frozen=True)
class Constants:
    """All constants that were chosen on data."""

    smoothing: SmoothingConstants = field(default_factory=SmoothingConstants)
    query_lda: QueryLDAConstants = field(default_factory=QueryLDAConstants)
    score: ScoreConstants = field(default_factory=ScoreConstants)
    label_match: LabelMatchConstants = field(default_factory=LabelMatchConstants)
    ood_rule: OODRuleConstants = field(default_factory=OODRuleConstants)
    rejection: RejectionConstants = field(default_factory=RejectionConstants)
    compatibility: CompatibilityConstants = field(default_factory=CompatibilityConstants)
    choice: ChoiceConstants = field(default_factory=ChoiceConstants)
    batches: BatchConstants = field(default_factory=BatchConstants)
    scaling: ScalingConstants = field(default_factory=ScalingConstants)
    genes: GeneConstants = field(default_factory=GeneConstants)
    query_pca: QueryPCAConstants = field(default_factory=QueryPCAConstants)


CONSTANTS = Constants()
