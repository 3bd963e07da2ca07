"""References: their files and checks, their model cards, and their transfer from and to the Hugging Face Hub."""
