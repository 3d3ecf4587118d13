"""A Hugging Face model with its tokenizer; the frozen reference; the embedded weights."""
