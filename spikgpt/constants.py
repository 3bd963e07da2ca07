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
        Smallest number of cells of a query for smoothing. In a smaller query, the nearest cell may be of another type.
    neighbours
        Number of neighbours whose probabilities are averaged with those of a cell.
    expression_neighbours
        Number of neighbours whose expression is averaged with that of a cell, for the in-distribution score.
    largest_share
        Largest total weight of the neighbours in the averaged probabilities.
    bandwidth
        Bandwidth of the Gaussian kernel, as a multiple of the neighbour's radius. The kernel weighs a neighbour by the
        distance of the cell beyond this radius.
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
        Factor of the linear discriminant before it is added to the log probabilities.
    shrinkage
        Share of the covariance within labels that is replaced by a multiple of the identity matrix.
    least_cells
        Smallest sum of a label's probabilities over the cells. A label with a smaller sum gets the weight of the best
        other label.
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
        A batch effect is estimated from the labels with at least ``effect_cells`` cells. At least ``effect_labels``
        labels must have so many cells. At most ``effect_sample`` cells of a label are used.
    excess_genes
        Number of genes in the marker excess: the genes whose expression exceeds that of every label most.
    noise_floor
        Constant that is added to the standard error of the mean log expression.
    ridge
        Constant that is added to the variances within labels, as a share of the mean variance of all vectors.
    within_share
        Constant that is added to the standard deviation of each gene within labels, as a share of the median over
        genes.
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
        Smallest number of cells of a label in a batch. A label with fewer cells gets the median batch effect of the
        other labels, and no marker deficit.
    largest_correlation
        The contrast is -log(largest_correlation - r), for the correlation r of a label with the reference.
    marker_weight
        Weight of the marker deficit M in the label match C + marker_weight M. C is the contrast.
    usual_markers
        Usual marker level of a label. The marker deficit compares a label with the mean of ``usual_markers`` and the
        median marker level of the other labels in the batch.
    markers, least_markers
        Largest number of marker genes of a label. A label with fewer than ``least_markers`` marker genes has no marker
        level.
    least_difference
        Lower bound of the denominator of a marker level, in log expression.
    marker_range
        Lower and upper bound of the level of a marker gene.
    least_expression
        Smallest mean expression of a gene, in counts per 10,000, to be used for the correction of a gene panel. The
        correction divides expression by the median ratio of query to reference over these genes.
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
    """Out-of-distribution rule; symbols in brackets are those of the formula in :mod:`spikgpt.scoring.ood_rule`.

    Attributes
    ----------
    largest_excess
        The marker excess of a cell, minus the median of its batch, is subtracted from the score of the cell. This is
        the largest value that is subtracted.
    neighbour_share
        Weight of the neighbours in each of the two averages of the score.
    quantile
        Quantile over the scores of a label's cells. The value at this quantile is the level of the label (q).
    held_out_share
        Share of the median score of the label's held-out cells that is subtracted from the scores (0.5 h).
    low_share
        Factor of q if q is negative (0.65). A batch effect can lower the scores of a label.
    match_weight, excess_weight
        Weight of the label match (0.6). Weight of n, the log ratio of the label's share in the batch to its share among
        held-out cells (0.6).
    offset
        Constant that is subtracted from the cut-off (1.0).
    present_weight, present_share
        Weight of P, the presence of the label in another batch (0.4). P is 1 if the share of known cells of the label
        in another batch is at least ``present_share`` times the share of the label in this batch.
    share_floor
        Constant that is added to both shares of cells before the ratio for n is taken.
    group_cells, group_gap, group_deviations
        The cells of a label form two groups if each group has at least ``group_cells`` cells. The mean scores of the
        groups must differ by ``group_gap``, and by ``group_deviations`` standard deviations within groups.
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
        A query with a lower simulated accuracy counts as a query with few of the reference's genes.
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
        Smallest number of cells, and smallest share of the query's cells, of a label that is compared with others.
    contrast_weight, other_weight
        Weights in the similarity: of the mean contrast, and of the marker level of the strongest other label.
    least_similarity
        A query with a lower similarity is refused as another tissue or species.
    least_correlation
        A query that is far from the reference (see ``far_shift``) is refused if its correlation is below this value. In
        the similarity, this value replaces the correlation if no two labels can be compared.
    other_excess
        A query is refused if the marker level of other labels exceeds that of the cells' own labels by more than this
        value.
    several_labels
        Smallest number of compared labels for a refusal because of a low correlation or a low contrast alone.
    far_contrast, far_correlation
        A query that is far from the reference is refused if its mean contrast and its correlation are both below these
        values.
    near_contrast, near_correlation
        Any query is refused if its mean contrast and its correlation are both below these values. With a higher
        correlation, a low contrast has another cause: cells of a missing type got one of the labels.
    marker_share
        Marker levels are used only if the labels of at least this share of the cells have enough marker genes.
    far_shift
        A query is far from the reference if its score loss is above this value. The score loss is the median
        in-distribution score of held-out cells minus the median over the labels of the query.
    largest_shift
        A query without similarity and correlation is refused if its score loss is above this value.
    agreement_cells
        Largest number of cells that are compared with the profiles of their labels.
    least_agreement, largest_unexplained
        A query is refused if the correlation of its cells with the profiles of their labels is below
        ``least_agreement``, and the variance that the labels do not explain is above ``largest_unexplained``. This
        variance is a share of the variance in the reference.
    another_study
        A query counts as another study if the expected share of falsely rejected cells is above this multiple of the
        guaranteed share, ``unknown_rate``.
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
        Largest number of cells in the sample of a query with which references are compared.
    least_correlation, least_agreement
        A reference suits a query if two correlations are high enough. The correlation of the label profiles must be at
        least ``least_correlation``. The correlation of the differences between labels must be at least
        ``least_agreement``.
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
        A query has two batches only if the cells of at least this many labels fall into two groups.
    least_agreement
        The difference between the two groups of a label is a unit vector. A label counts only if the cosine between its
        difference and the sum over labels is at least this value.
    least_length
        Smallest length of the sum of these unit vectors, divided by the number of labels with enough cells.
    least_concordance
        Smallest concordance, between two batches, of the differences between labels.
    directions, rounds
        Number of principal components that are tried as directions, and number of refinements of each direction.
    largest_number
        Largest number of batches that are inferred.
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
        Smallest number of compared cells of a label from which the shift is computed.
    noted_change
        A note is given if more than this share of the labels changes with the scaling.
    spread_floor, spread_range
        Constant that is added to the standard deviations of log expression in query and reference before their ratio is
        taken. Lower and upper bound of the ratio.
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
        Factor of the log likelihood of a label, summed over genes. A factor below 1 allows for genes that depend on
        each other.
    least_noise
        Lower bound of the variance of a scaled gene around the value that the imputation expects.
    ridge
        Constant that is added to the diagonal of the covariance of the component scores, as a share of their mean
        variance.
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
