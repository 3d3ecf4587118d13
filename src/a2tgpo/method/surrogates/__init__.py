"""What is optimised at a token: one surrogate a file."""
