"""Trajectories as tensors; log-probs and beliefs in one cached pass."""
