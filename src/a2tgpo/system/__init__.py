"""Processes, ranks, threads, clocks, files and servers: nothing about learning."""
