"""From gains, outcomes and states to the advantage of every turn: one credit a file."""
