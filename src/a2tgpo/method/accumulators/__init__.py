"""How the rewards of later turns reach earlier ones: one accumulator a file."""
