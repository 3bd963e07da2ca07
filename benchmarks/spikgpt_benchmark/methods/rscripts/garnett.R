# Garnett with its defaults. It learns from cells with the marker genes of a type, and extends labels to clusters.
source(file.path(dirname(sub("--file=", "", grep("--file=", commandArgs(), value = TRUE))), "common.R"))
need(c("monocle", "garnett"), "BiocManager::install('monocle'), then garnett from its authors' site")
suppressPackageStartupMessages({
  library(monocle)
  library(garnett)
})

plain <- function(values) {
  genes <- data.frame(gene_short_name = rownames(values), row.names = rownames(values))
  cells <- data.frame(cell = colnames(values), row.names = colnames(values))
  made <- newCellDataSet(values, new("AnnotatedDataFrame", cells), new("AnnotatedDataFrame", genes))
  estimateSizeFactors(made)
}

# The probability of each type of the marker file, cells by types. The probability of a subtype includes that of its
# parent type as a factor. Garnett itself returns only the most probable type.
chances <- function(values, trained) {
  usual <- trained@cell_totals * median(Matrix::colSums(values > 0))
  cells <- Matrix::t(values %*% Matrix::Diagonal(x = usual / pmax(Matrix::colSums(values), 1e-12)))
  nodes <- igraph::V(trained@classification_tree)
  probabilities <- list(root = 1)
  for (node in nodes$name) {
    model <- nodes[node]$model[[1]]
    if (!inherits(model, "cv.glmnet") || is.null(probabilities[[node]])) next
    genes <- rownames(model$glmnet.fit$beta[[1]])
    own <- predict(model, cells[, genes], s = "lambda.min", type = "response")[, , 1]
    for (type in setdiff(colnames(own), "Unknown")) probabilities[[type]] <- probabilities[[node]] * own[, type]
  }
  do.call(cbind, probabilities[-1])
}

# Garnett fails on cells without counts, which have no size factor.
filled <- function(values) values[, Matrix::colSums(values) > 0]
learn <- filled(cells_of("reference"))
ask <- cells_of("query")
set.seed(as.integer(arguments[1]))
start <- seconds()
trained <- train_cell_classifier(plain(learn), arguments[2], db = "none")
middle <- seconds()
classified <- pData(classify_cells(plain(filled(ask)), trained, db = "none", cluster_extend = TRUE))
likely <- chances(ask, trained)
likely <- likely[, colnames(likely) %in% readLines(file.path(folder, "labels.txt")), drop = FALSE]
if (ncol(likely) == 0) stop("No type of the marker file has the name of a label of the reference")
best <- colnames(likely)[max.col(likely, ties.method = "first")]
cells <- data.frame(label = classified[colnames(ask), "cluster_ext_type"], best = best)
answer(cells, middle - start, seconds() - middle, c("monocle", "garnett"))
