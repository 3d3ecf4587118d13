"""How rewards are compared inside a group: one normalizer a file, for the turns and for the outcome alike."""
