# Functions shared by the scripts: read the cells, and write the results.
folder <- commandArgs(trailingOnly = TRUE)[1]
arguments <- commandArgs(trailingOnly = TRUE)[-1]

need <- function(packages, how) {
  missing <- packages[!vapply(packages, requireNamespace, logical(1), quietly = TRUE)]
  if (length(missing) > 0) {
    message("R has no package ", paste(missing, collapse = ", "), ": ", how)
    quit(status = 3)
  }
}

# Values, genes by cells; the names of the columns begin with the side, "reference" or "query".
cells_of <- function(side) {
  values <- as(Matrix::readMM(file.path(folder, paste0(side, ".mtx"))), "CsparseMatrix")
  dimnames(values) <- list(readLines(file.path(folder, "genes.txt")), paste0(side, seq_len(ncol(values))))
  values
}

log_normalised <- function(values) {
  totals <- pmax(Matrix::colSums(values), 1e-12)
  log1p(values %*% Matrix::Diagonal(x = 1e4 / totals))
}

answer <- function(cells, train, predict, packages) {
  write.csv(cells, file.path(folder, "cells.csv"), row.names = FALSE)
  write.csv(data.frame(train = train, predict = predict), file.path(folder, "seconds.csv"), row.names = FALSE)
  versions <- vapply(packages, function(package) as.character(packageVersion(package)), character(1))
  table <- data.frame(package = c("R", packages), version = c(as.character(getRversion()), versions))
  write.csv(table, file.path(folder, "versions.csv"), row.names = FALSE)
}

seconds <- function() proc.time()[["elapsed"]]
