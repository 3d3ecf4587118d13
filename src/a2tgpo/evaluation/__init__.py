"""A policy outside training: figures, intervals, tables."""
