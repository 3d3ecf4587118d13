"""What a policy may call: one tool a file, a typed function or callable object."""
