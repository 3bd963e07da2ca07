# Seurat's label transfer: anchors between reference and query by canonical correlation, with its defaults.
source(file.path(dirname(sub("--file=", "", grep("--file=", commandArgs(), value = TRUE))), "common.R"))
need("Seurat", "apt-get install r-cran-seurat, or install.packages('Seurat') in R")
suppressPackageStartupMessages(library(Seurat))

labels <- readLines(file.path(folder, "labels.txt"))
learn <- cells_of("reference")
ask <- cells_of("query")
# Seurat calls a gene with an underscore by another name.
rownames(learn) <- rownames(ask) <- paste0("gene", seq_len(nrow(learn)))
set.seed(as.integer(arguments[1]))
start <- seconds()
reference <- NormalizeData(CreateSeuratObject(learn), verbose = FALSE)
reference <- ScaleData(FindVariableFeatures(reference, verbose = FALSE), verbose = FALSE)
reference <- RunPCA(reference, verbose = FALSE)
trained <- seconds()
query <- NormalizeData(CreateSeuratObject(ask), verbose = FALSE)
anchors <- FindTransferAnchors(reference, query, reduction = "cca", dims = 1:30, verbose = FALSE)
found <- TransferData(anchors, labels, weight.reduction = "cca", dims = 1:30, verbose = FALSE)
scores <- found[, grepl("^prediction.score", colnames(found)) & colnames(found) != "prediction.score.max"]
# Names of columns are altered; their order is that of the labels as they come.
colnames(scores) <- paste0("score:", unique(labels))
cells <- data.frame(label = found$predicted.id, score = found$prediction.score.max, scores, check.names = FALSE)
answer(cells, trained - start, seconds() - trained, "Seurat")
