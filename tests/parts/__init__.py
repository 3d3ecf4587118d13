"""Parts as users would write them: one file and one yaml each, none of them known to the project."""
