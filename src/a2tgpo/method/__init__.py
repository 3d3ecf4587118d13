"""The paper: the algorithm, its equations, and every part that can be swapped."""
