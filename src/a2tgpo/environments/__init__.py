"""One episode with tools: what a policy may call, how it writes, how an answer is judged."""
