"""How much a token counts in the loss: one weighting a file."""
