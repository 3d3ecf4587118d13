"""Runs that are killed, signalled and starved; run by `make test-faults`."""
