# Garnett with its defaults: marker genes of each type, and the cells that they single out to learn from.
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
learn <- cells_of("reference")
ask <- cells_of("query")
set.seed(as.integer(arguments[1]))
start <- seconds()
trained <- train_cell_classifier(plain(learn), arguments[2], db = "none", cds_gene_id_type = "SYMBOL",
                                 marker_file_gene_id_type = "SYMBOL")
middle <- seconds()
found <- classify_cells(plain(ask), trained, db = "none", cds_gene_id_type = "SYMBOL")
answer(data.frame(label = pData(found)$cell_type), middle - start, seconds() - middle, c("monocle", "garnett"))
