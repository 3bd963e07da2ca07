"""Files damaged at random, from fixed seeds, and what becomes of them."""
