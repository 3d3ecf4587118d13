"""How the turns' credit and the outcome become one advantage: one combiner a file."""
