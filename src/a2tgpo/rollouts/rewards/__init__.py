"""What episodes earn: one reward a file."""
