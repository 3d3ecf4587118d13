"""The invented world that ships: questions, passages, tokenizer, demonstrations, probes."""
