"""What a process turn is worth, for model/signal=process_reward: one scorer a file."""
