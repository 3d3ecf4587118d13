"""Gather the passages that come with questions (HotpotQA, 2WikiMultihopQA, MuSiQue) into a corpus for the retrievers.

python scripts/make_corpus.py hotpot_train_v1.1.json hotpot_dev_distractor_v1.json --output corpus.jsonl
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from a2tgpo.rollouts.trajectory import Split
from a2tgpo.system.files import whole_file
from a2tgpo.tasks.question_rows import refuse
from a2tgpo.tasks.question_sources import open_sources
from a2tgpo.tasks.supporting_facts import passages


def gather(entries: list[str]) -> Iterator[list[str]]:
    """The passages of each question. Raises ValueError naming a file that is none of questions with passages."""
    for entry in entries:
        for opened in open_sources("FILES", entry, Split.TRAIN, None):
            for index, row in enumerate(opened.rows):
                found = passages(row, partial(refuse, opened.source, index))
                if found is None:
                    raise ValueError(
                        f"{opened.source}, row {index}: no passages in its columns {', '.join(row)}; "
                        "expected context (HotpotQA, 2WikiMultihopQA) or paragraphs (MuSiQue)"
                    )
                yield found


def write_corpus(entries: list[str], output: Path) -> tuple[int, int]:
    """Write each passage of `entries` once, in the order of the files; how many questions and passages there were."""
    known: set[bytes] = set()
    questions = 0
    with whole_file(output) as file:
        for found in gather(entries):
            questions += 1
            for contents in found:
                digest = hashlib.blake2b(contents.encode(), digest_size=16).digest()
                if digest not in known:
                    file.write(json.dumps({"id": len(known), "contents": contents}, ensure_ascii=False) + "\n")
                    known.add(digest)
        if not known:
            raise ValueError(f"FILES={' '.join(entries)}: no passages; expected questions that come with some")
    return questions, len(known)


def main() -> None:
    """Write the corpus, and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILES", help="files of questions, patterns of them, or hub ids")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    try:
        questions, count = write_corpus(options.files, options.output)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"{count} passages of {questions} questions in {options.output}")


if __name__ == "__main__":
    main()
