"""Files of questions for the tests of this folder."""

import csv
import json

import datasets
import pytest
from datasets import Dataset


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    """Arrow copies of these files go where the tests' other files go."""
    before, datasets.config.HF_DATASETS_CACHE = datasets.config.HF_DATASETS_CACHE, str(tmp_path_factory.mktemp("arrow"))
    yield
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture
def write(tmp_path):
    """`write(rows, "x.jsonl")`, or another suffix: the path of a new file."""

    def save(rows, name):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            Dataset.from_list(rows).to_parquet(path)
        elif path.suffix == ".json":
            path.write_text(json.dumps(rows))
        elif path.suffix in (".csv", ".tsv"):
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
                writer.writeheader()
                writer.writerows(rows)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return save
