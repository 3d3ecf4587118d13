"""What a token counts whose rollout policy was not the trainer's: one correction a file."""
