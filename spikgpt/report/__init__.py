"""Reports on the clusters of a query and their marker genes."""
