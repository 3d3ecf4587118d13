"""How actions and results are written: one dialect a file."""
