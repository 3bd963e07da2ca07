"""References from the files that studies published: recipes, and the steps that follow them."""
