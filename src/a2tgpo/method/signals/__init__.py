"""What a turn is worth, before any normalisation: one signal a file."""
