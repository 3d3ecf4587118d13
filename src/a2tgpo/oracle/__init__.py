"""How good is the credit of each turn? Held against forks of the outcome, without training."""
