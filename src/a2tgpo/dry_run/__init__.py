"""Toy stand-ins and the memory arithmetic of the real size."""
