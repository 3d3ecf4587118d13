"""How new weights reach a running server: one way a file."""
