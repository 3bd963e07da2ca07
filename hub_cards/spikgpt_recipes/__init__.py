"""Build references from the files that studies published: recipes, readers of the files, and the steps of a build."""
