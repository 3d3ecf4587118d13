"""A finished or running run as a person looks at it: which turn got which credit, and why."""
