# Seurat's label transfer: anchors between reference and query by canonical correlation, with its defaults.
source(file.path(dirname(sub("--file=", "", grep("--file=", commandArgs(), value = TRUE))), "common.R"))
need("Seurat", "apt-get install r-cran-seurat, or install.packages('Seurat') in R")
suppressPackageStartupMessages(library(Seurat))

labels <- readLines(file.path(folder, "labels.txt"))
learn <- cells_of("reference")
ask <- cells_of("query")
# Seurat renames genes with an underscore.
rownames(learn) <- rownames(ask) <- paste0("gene", seq_len(nrow(learn)))
set.seed(as.integer(arguments[1]))
start <- seconds()
reference <- NormalizeData(CreateSeuratObject(learn), verbose = FALSE)
reference <- ScaleData(FindVariableFeatures(reference, verbose = FALSE), verbose = FALSE)
reference <- RunPCA(reference, verbose = FALSE)
trained <- seconds()
query <- NormalizeData(CreateSeuratObject(ask), verbose = FALSE)
anchors <- FindTransferAnchors(reference, query, reduction = "cca", dims = 1:30, verbose = FALSE)
result <- TransferData(anchors, labels, weight.reduction = "cca", dims = 1:30, verbose = FALSE)
scores <- result[, grepl("^prediction.score", colnames(result)) & colnames(result) != "prediction.score.max"]
# Seurat changes the names of the columns; their order is the first occurrence of each label.
colnames(scores) <- paste0("score:", unique(labels))
cells <- data.frame(label = result$predicted.id, score = result$prediction.score.max, scores, check.names = FALSE)
answer(cells, trained - start, seconds() - trained, "Seurat")
