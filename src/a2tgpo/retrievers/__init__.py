"""What finds passages: BM25, dense vectors, a server."""
