"""Build references from the files that studies published: recipes, readers of their files, and the build steps."""
