"""`python search_once.py URL`: one search in a process of its own; prints what came of it, seconds and peak memory."""

import json
import sys
import time

from a2tgpo.retrievers.http import HttpRetriever, RetrievalError
from tests.helpers.peak_memory import peak_mib

retriever = HttpRetriever(sys.argv[1], "search_r1", 2.0, 4.0, 1, 4, 10)
start = time.monotonic()
try:
    found = [len(passage) for passage in retriever.search("Varo", 3)]
except RetrievalError as error:
    found = str(error)
print(json.dumps({"found": found, "seconds": time.monotonic() - start, "mib": peak_mib()}))
