"""Names of genes: the table of human genes, and the spellings that files bring."""
