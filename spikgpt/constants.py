"""Constants that were tuned on data, with their units and meaning.

The constants were tuned on the tuning tasks only. ``docs/development/tried.md`` has the tables of the tuned values, and
of the variants with worse results. The docstring of each class names the module that uses the constants.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class SmoothingConstants:
    """Averaging of label probabilities over nearest neighbours; see :mod:`spikgpt.scoring.smoothing`.

    Attributes
    ----------
    least_cells
        Least number of cells of a query that is smoothed. In a smaller query, the nearest cell may be of another type.
    neighbours
        Number of neighbours whose probabilities are averaged with those of a cell.
    expression_neighbours
        Number of neighbours whose expression is averaged with that of a cell, for the in-distribution score.
    largest_share
        Largest total weight of the neighbours in the averaged probabilities.
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
        Weight of the linear discriminant, which is added to the log probabilities.
    shrinkage
        Share of the covariance within labels that is replaced by a multiple of the identity.
    least_cells
        Least sum of a label's probabilities, in cells, for a label that is reweighted.
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
        The weight of a gene in the correlation is its standard deviation between labels, raised to this power.
    energy_weight
        Weight of the energy in the in-distribution score.
    effect_cells, effect_labels, effect_sample
        A batch effect is estimated from labels with at least ``effect_cells`` cells, if there are at least
        ``effect_labels`` such labels. At most ``effect_sample`` cells of a label are used.
    excess_genes
        Number of genes of the marker excess: the genes that exceed every label most.
    noise_floor
        Constant that is added to the standard error of the mean log expression.
    ridge
        Constant that is added to the variances within labels, as a share of their mean.
    within_share
        Constant that is added to the standard deviation of each gene within labels, as a share of their median.
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
        Least number of cells of a label in a batch. A label with fewer cells has neither shift nor marker deficit of
        its own.
    largest_correlation
        The contrast is -log(largest_correlation - r), for the correlation r of a label with the reference.
    marker_weight
        Weight of the marker deficit M in the label match C + marker_weight M. C is the contrast.
    usual_markers
        Marker level that is expected of a label. The reference level of a label is the mean of ``usual_markers`` and of
        the median marker level of the other labels of the batch.
    markers, least_markers
        Largest number of marker genes of a label, and least number of marker genes of a label with a marker level.
    least_difference
        Lower bound of the denominator of a marker level, in log expression.
    marker_range
        Lower and upper bound of the level of a marker gene.
    least_expression
        Least mean expression, in counts per 10,000, of the genes whose median excess over the reference corrects a gene
        panel.
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
        Upper bound of the marker excess above the median of the batch. This excess is subtracted from the score of a
        cell.
    neighbour_share
        Weight of the neighbours in each of the two averages of the score.
    quantile
        Quantile of the scores of a label that stands for the label (q).
    held_out_share
        Share of the median score of the label's held-out cells that is subtracted from the scores (0.5 h).
    low_share
        Factor of q if q is negative, because a batch effect lowers the scores of a label (0.65).
    match_weight, excess_weight
        Weight of the label match (0.6), and of the excess n of cells of the label (0.6).
    offset
        Constant that is subtracted from the cut-off (1.0).
    present_weight, present_share
        Weight of the presence P of the label in another batch (0.4). P is 1 if the label's share of the cells there is
        at least ``present_share`` times its share here.
    share_floor
        Constant that is added to shares of cells before their ratio is taken.
    group_cells, group_gap, group_deviations
        Two groups of cells of a label have at least ``group_cells`` cells each. Their mean scores differ by at least
        ``group_gap``, and by at least ``group_deviations`` standard deviations within groups.
    group_margin
        The lower group is Unknown as a whole if its mean margin above the cut-off is below ``group_margin``.
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
        A query whose simulated accuracy is below this value has few of the reference's genes.
    largest_error
        Largest mean expected error, 1 - confidence, of the labelled cells of a query with few genes.
    spread_cells
        Least number of cells of a label for an estimate of the spread of its scores.
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
        Least number of cells, and least share of the cells of the query, of a label that is compared with other labels.
    contrast_weight, other_weight
        Weight of the mean contrast, and of the marker level of other labels, in the similarity.
    least_similarity
        A query with a lower similarity is refused as another tissue or species.
    least_correlation
        A query that is far from the reference is refused if its correlation is below this value. In the similarity,
        this value replaces the correlation if no two labels can be compared.
    other_excess
        A query is refused if the marker level of other labels exceeds that of the cells' own labels by more than this
        value.
    several_labels
        Least number of labels for a refusal by the correlation and the contrast alone.
    far_contrast, far_correlation
        A query that is far from the reference is refused if its mean contrast and its correlation are both below these
        values.
    near_contrast, near_correlation
        Any query is refused if its mean contrast and its correlation are both below these values. With a higher
        correlation, a low contrast has another cause: cells of a missing type got one of the labels.
    marker_share
        Least share of the cells whose labels have enough marker genes. With a smaller share, marker levels are not
        used.
    far_shift
        A query is far from the reference if its loss of the in-distribution score is above this value.
    largest_shift
        A query without similarity and correlation is refused if its loss of the in-distribution score is above this
        value.
    agreement_cells
        Largest number of cells that are compared with the profiles of their labels.
    least_agreement, largest_unexplained
        A query is refused if the correlation of its cells with the profiles of their labels is below
        ``least_agreement``, and the variance that the labels do not explain is above ``largest_unexplained``. This
        variance is a share of the variance in the reference.
    another_study
        A query is from another study if the expected share of false rejections exceeds this multiple of the guaranteed
        share.
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
        Largest number of cells of a query that references are compared with.
    least_correlation, least_agreement
        A reference suits a query if the correlation of the profiles of labels is at least ``least_correlation``, and
        that of the differences between labels at least ``least_agreement``.
    tie
        Two references suit a query about equally well if their strengths differ by at most this value. The strength is
        the correlation times the share of cells that are not Unknown.
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
        Least number of labels whose cells fall into two groups.
    least_agreement
        Least cosine between the difference of the two groups of a label and the sum of these differences over labels.
    least_length
        Least length of the sum of the differences, divided by the number of labels with enough cells.
    least_concordance
        Least concordance of the differences between labels in two batches.
    directions, rounds
        Number of principal components that are tried as directions, and number of refinements of each direction.
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
        Least number of cells of a query for which ``auto`` compares scalings. A smaller query gets the reference's
        scaling.
    compared_cells
        Largest number of cells on which the two scalings are compared.
    shift_cells
        Least number of compared cells of a label that the shift is computed from.
    noted_change
        A note is given if a larger share of the labels changes with the scaling.
    spread_floor, spread_range
        Constant that is added to standard deviations of log expression before their ratio is taken, and bounds of the
        ratio.
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
        Largest share of missing genes for which no accuracy is simulated.
    simulated_cells
        Number of simulated cells of each label.
    least_accuracy
        A query whose simulated accuracy is below this value is refused.
    least_genes
        A query with fewer of the reference's genes is refused.
    evidence_weight
        Factor of the evidence of all genes for a label. A factor below 1 allows for genes that depend on each other.
    least_noise
        Lower bound of the variance of a scaled gene around its expectation.
    ridge
        Constant that is added to the diagonal of the covariance of the scores, as a share of the mean variance.
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
        Number of principal components.
    spread_floor
        Constant that is added to the standard deviation of each gene before scaling.
    """

    components: int = 30
    spread_floor: float = 0.3


@dataclass(frozen=True)
class Constants:
    """All constants that were tuned on data."""

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
