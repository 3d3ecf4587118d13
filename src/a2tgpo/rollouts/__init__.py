"""What is recorded, the multi-turn loop, and what episodes earn."""
