"""Who samples actions: a model in this process, a vLLM server, or a script."""
