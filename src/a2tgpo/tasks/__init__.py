"""Questions: files of every known layout, benchmarks, word problems."""
