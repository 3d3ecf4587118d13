"""From gains and outcomes to the advantage of every turn: one credit a file."""
