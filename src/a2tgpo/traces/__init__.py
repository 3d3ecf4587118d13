"""Trajectories in other people's formats, both ways: one format a file."""
