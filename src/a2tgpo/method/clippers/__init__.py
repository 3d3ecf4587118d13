"""How far a turn's ratio may move: one clipper a file."""
