"""How good an answer is: one judge a file."""
