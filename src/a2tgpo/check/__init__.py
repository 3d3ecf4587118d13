"""Will a run work? What model, questions and settings show in a few minutes, before hours are spent."""
