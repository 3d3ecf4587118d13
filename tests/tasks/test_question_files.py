"""One reader for the question files of the field: the same questions from each, and errors that name the place."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset
from hydra.utils import instantiate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from a2tgpo.rollouts.trajectory import Split
from a2tgpo.system.errors import SettingError
from a2tgpo.tasks.question_files import QuestionFiles, open_questions
from a2tgpo.tasks.question_rows import Layout
from tests.helpers.tiny_runs import SHIPPED, SMALL, fit

QUESTION, ANSWERS = "Who made Bemi?", ["Varo Lint", "Lint"]
INSTRUCTION = "Answer the given question. For example, <answer> Beijing </answer>. Question: "


def said(content):
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]


def verl(question=QUESTION, truth=None, **extra):
    """verl, Search-R1, A-TGPO; `truth` as {"target": …}, a list or a string."""
    model = {"style": "rule", "ground_truth": {"target": ANSWERS} if truth is None else truth}
    row = {"data_source": "nq", "prompt": said(INSTRUCTION + question + "\n"), "ability": "fact", "reward_model": model}
    return {**row, "extra_info": {"split": "test", "index": 0}, **extra}


DIALECTS = {
    "verl": lambda q, a: verl(q, {"target": a}),
    "verl with a list": lambda q, a: verl(q, a),
    "verl with extra_info.question": lambda q, a: verl("no", a, extra_info={"question": q}),
    "igpo": lambda q, a: verl(truth="<|answer_split|>".join(a), prompt=[{"role": "user", "content": q}]),
    "skyrl": lambda q, a: {
        "data_source": "nq",
        "prompt": said(q),
        "env_class": "search",
        "reward_spec": {"method": "rule", "ground_truth": {"target": a}},
        "extra_info": {"index": 0},
        "max_turns": 4,
    },
    "flashrag": lambda q, a: {
        "id": "0",
        "data_source": "nq",
        "question": q,
        "golden_answers": a,
        "metadata": {"hop": 1},
    },
    "trl": lambda q, a: {"prompt": said(q), "answer": a, "data_source": "nq"},
    "trl with text": lambda q, a: {"prompt": q, "solution": a, "data_source": "nq"},
}


def read(entries, **options):
    return list(open_questions("data.tasks.test", entries, Split.TEST, question_marker="Question:", **options))


def message(entries, **options):
    with pytest.raises(ValueError) as raised:
        read(entries, **options)
    return str(raised.value)


# ---- the five layouts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "json"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_layout_gives_the_same_task(write, dialect, suffix):
    [task] = read(write([DIALECTS[dialect](QUESTION, ANSWERS)], f"dev.{suffix}"))
    assert (task.task_id, task.question, task.answers, task.kind) == ("dev/0", QUESTION, tuple(ANSWERS), "nq")


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="|"), min_size=1).map(str.strip).filter(len)


@given(question=words.filter(lambda text: "Question:" not in text), answers=st.lists(words, min_size=1, unique=True))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_question_survives_every_layout(question, answers):
    for make in DIALECTS.values():
        row = make(question, answers)
        task = Layout.detect(row, "dev.jsonl", "dev", "Question:").task(row, 0)
        assert (task.question, task.answers) == (question, tuple(answers))


def test_the_question_column_comes_before_the_prompt(write):
    assert read(write([{**verl("no"), "question": QUESTION}], "a.parquet"))[0].question == QUESTION


def test_the_last_user_message_is_the_question(write):
    prompt = [*said("no"), {"role": "assistant", "content": "What?"}, *said(QUESTION)]
    assert read(write([{"prompt": prompt, "answer": "x"}], "a.jsonl"))[0].question == QUESTION


def test_a_question_may_hold_the_marker_itself():
    row = {"prompt": "Be brief. Question: What does 'Question: 42' mean?", "answer": "x"}
    assert Layout.detect(row, "f", "f", "Question:").task(row, 0).question == "What does 'Question: 42' mean?"


@pytest.mark.parametrize(
    ("row", "answers"),
    [
        ({"answer": "a", "answer_aliases": ["b", "a"]}, ("a", "b")),
        ({"answer": "a", "answer_aliases": None}, ("a",)),
        ({"answer": {"value": "a", "aliases": ["b"], "normalized_value": "c"}}, ("a", "b")),
        ({"golden_answers": ["a"], "answer_aliases": ["b"]}, ("a",)),
        ({"answer": "[a, b] and ['c']"}, ("[a, b] and ['c']",)),
        ({"possible_answers": '["a", "b, c"]'}, ("a", "b, c")),
        ({"answers": ["a", "b"]}, ("a", "b")),
    ],
)
def test_aliases_beside_the_answer_are_accepted(write, row, answers):
    for name in ("a.jsonl", "a.parquet", "a.json"):
        assert read(write([{"question": QUESTION, **row}], name))[0].answers == answers


def test_an_alias_that_is_no_text_is_refused(write):
    path = write([{"question": QUESTION, "answer": "x", "answer_aliases": ["a", 7]}], "a.jsonl")
    assert message(path).startswith(
        f"{path}, row 0, column answer_aliases: got ['a', 7]; expected a string or a list of"
    )


def test_the_own_file_of_triviaqa(tmp_path):
    answer = {
        "Aliases": ["Sinclair Lewis", "Harry Sinclair Lewis"],
        "MatchedWikiEntityName": "Sinclair Lewis",
        "NormalizedAliases": ["sinclair lewis", "harry sinclair lewis"],
        "NormalizedMatchedWikiEntityName": "sinclair lewis",
        "NormalizedValue": "sinclair lewis",
        "Type": "WikipediaEntity",
        "Value": "Sinclair Lewis",
    }
    question = "Which American-born Sinclair won the Nobel Prize for Literature in 1930?"
    row = {"Answer": answer, "EntityPages": [], "Question": question, "QuestionId": "tc_1", "SearchResults": []}
    path = tmp_path / "web-dev.json"
    path.write_text(json.dumps({"Data": [row], "Domain": "Web", "VerifiedEval": False, "Version": 1.0}))
    [task] = read(str(path))
    assert (task.task_id, task.question) == ("web-dev/tc_1", question)
    assert task.answers == ("Sinclair Lewis", "Harry Sinclair Lewis")


@pytest.mark.parametrize("name", ["bamboogle.csv", "bamboogle.tsv", "bamboogle.json"])
def test_tables_have_named_columns_of_texts(write, name):
    rows = [
        {"Question": "Who, then,\nwas president?", "Answer": "James Madison"},
        {"Question": "When?", "Answer": "1912"},
        {"Question": 'What does "NA" mean?', "Answer": "NA"},
        {"Question": "Which agent?", "Answer": "007"},
    ]
    tasks = read(write(rows, name))
    assert [(task.question, *task.answers) for task in tasks] == [(row["Question"], row["Answer"]) for row in rows]
    assert [task.task_id for task in tasks] == [f"bamboogle/{i}" for i in range(4)]


def test_a_table_as_popqa_writes_it(tmp_path):
    path = tmp_path / "popqa.tsv"
    path.write_bytes(
        b"\xef\xbb\xbfid\tprop\tquestion\tpossible_answers\r\n"
        b'4222362\toccupation\tWhat is George Rankin\'s occupation?\t"[""politician"", ""political leader""]"\r\n'
    )
    [task] = read(str(path))
    assert (task.task_id, task.answers) == ("popqa/4222362", ("politician", "political leader"))


def test_equal_ids_name_different_questions(write):
    rows = [{"id": "0", "question": f"q{i}", "answer": "x"} for i in range(2)]
    assert [(task.task_id, task.question) for task in read(write(rows, "a.jsonl"))] == [("a/0", "q0"), ("a/0", "q1")]


@pytest.mark.parametrize(("marker", "question"), [("Question:", "b?"), ("Q:", "b? Question: c?"), (None, "Q: a?")])
def test_the_marker_is_a_setting(marker, question):
    text = {"Question:": "Q: a? Question: b?", "Q:": "Hi. Q: b? Question: c?", None: "Q: a?"}[marker]
    row = {"prompt": text, "answer": "x"}
    assert Layout.detect(row, "f", "f", marker).task(row, 0).question == question


def test_aliases_are_trimmed_and_named_once(write):
    rows = [verl(truth=" Varo Lint <|answer_split|>Lint<|answer_split|><|answer_split|>Lint ")]
    assert read(write(rows, "a.parquet"))[0].answers == ("Varo Lint", "Lint")


def test_a_file_without_sources_names_its_questions_after_itself(write):
    rows = [{"id": "dev_7", "question": QUESTION, "golden_answers": ANSWERS}]
    [task] = read(write(rows, "musique.jsonl"))
    assert (task.task_id, task.kind) == ("musique/dev_7", "musique")


def test_rows_of_a_jsonl_need_not_be_of_one_type(write):
    notes = [{"a": 1}, {"a": "x", "b": [1]}, None, [3]]
    rows = [{"question": f"q{i}", "golden_answers": ["x"], "metadata": m} for i, m in enumerate(notes)]
    rows += [{"question": "q4", "golden_answers": "2016-05-05", "id": 7}, {"prompt": "q5", "golden_answers": ["x"]}]
    tasks = open_questions("data.tasks.test", write(rows[:5], "a.jsonl"), Split.TEST)
    assert [task.question for task in tasks] == ["q0", "q1", "q2", "q3", "q4"]
    assert (tasks[4].answers, tasks[4].task_id) == (("2016-05-05",), "a/7")
    path = write(rows, "b.jsonl")
    with pytest.raises(ValueError, match="row 5, column question: got None"):
        open_questions("data.tasks.test", path, Split.TEST)[5]


def test_late_rows_of_a_large_jsonl_are_read_like_the_first(write):
    rows = [{"question": f"q{i}", "golden_answers": "x" * 900} for i in range(15_000)]
    path = write([*rows, {"question": "last", "golden_answers": ["Rome", "Roma"], "metadata": {"a": 1}}], "a.jsonl")
    assert open_questions("data.tasks.test", path, Split.TEST)[15_000].answers == ("Rome", "Roma")


def test_a_jsonl_may_have_a_byte_order_mark_blank_lines_and_half_a_surrogate_pair(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"question": "a", "answer": "x"}\r\n\r\n{"question": "b \\uD83d", "answer": "x"}')
    assert [task.question for task in read(str(path))] == ["a", "b ?"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_path_with_brackets_is_not_a_pattern(write, name):
    write(numbered(0, 1), f"v/{name}")
    assert read(write(numbered(7, 8), f"[v]/{name}"))[0].question == "q7"


# ---- files, patterns, hub ids ----------------------------------------------------------------------------------------


def numbered(first, last):
    return [{"question": f"q{i}", "golden_answers": [f"a{i}"]} for i in range(first, last)]


def test_files_follow_one_another_in_random_access(write):
    paths = [write(numbered(0, 3), "a.jsonl"), write(numbered(3, 4), "b.parquet"), write(numbered(4, 9), "c.jsonl")]
    questions = open_questions("data.tasks.train", paths, Split.TRAIN)
    assert len(questions) == 9
    assert [questions[i].answers for i in (8, 0, 3, 2, 4)] == [("a8",), ("a0",), ("a3",), ("a2",), ("a4",)]
    for outside in (-1, 9):
        with pytest.raises(IndexError):
            questions[outside]


def test_a_pattern_takes_its_files_in_order(write, tmp_path):
    for part in (2, 0, 1):
        write(numbered(part, part + 1), f"part-{part}.parquet")
    assert [task.question for task in read(f"{tmp_path}/part-*.parquet")] == ["q0", "q1", "q2"]


@pytest.mark.parametrize("limit", [1, 3, 4, 9])
def test_limit_keeps_the_first_questions(write, limit):
    paths = [write(numbered(0, 3), "a.jsonl"), write(numbered(3, 6), "b.jsonl")]
    assert [task.question for task in read(paths, limit=limit)] == [f"q{i}" for i in range(min(limit, 6))]


@pytest.mark.parametrize("limit", [None, 2])
def test_hub_data_set_is_read_whole_or_streamed(write, tmp_path, monkeypatch, limit):
    write(numbered(0, 5), "owner/set/validation.jsonl")  # a folder of this name is read as the hub's would be
    monkeypatch.chdir(tmp_path)
    questions = open_questions("data.tasks.val", "owner/set", Split.VALIDATION, limit)
    assert [task.task_id for task in questions] == [f"set/{i}" for i in range(limit or 5)]
    assert isinstance(questions.files[0].rows, list if limit else Dataset)
    assert len(open_questions("data.tasks.test", "owner/set:default@validation", Split.TEST, limit)) == (limit or 5)


def test_a_parquet_of_the_same_size_and_date_is_another_file(write):
    for answer in ("Rome", "Oslo"):
        path = write([{"question": QUESTION, "answer": answer}], "a.parquet")
        os.utime(path, (1e9, 1e9))
        assert read(path)[0].answers == (answer,)


@pytest.mark.parametrize("change", [lambda file: file.truncate(9), lambda file: file.write("x" * 9)])
def test_a_file_that_is_rewritten_under_way_is_named(write, change):
    path = write(numbered(0, 500), "a.jsonl")
    questions = open_questions("data.tasks.train", path, Split.TRAIN)
    assert questions[499].answers == ("a499",)
    with open(path, "r+") as file:
        change(file)
    with pytest.raises(
        SettingError, match=rf"^{path}, row 7: the file was changed while it was in use; expected it to"
    ):
        questions[7]


def test_a_file_that_takes_its_place_is_not_seen(write, tmp_path):
    path = write(numbered(0, 2), "a.jsonl")
    questions = open_questions("data.tasks.train", path, Split.TRAIN)
    os.replace(write(numbered(5, 9), "b.jsonl"), path)
    assert [task.question for task in questions] == ["q0", "q1"]


def test_rows_stay_on_disk(write):
    [file] = open_questions("data.tasks.test", write(numbered(0, 50), "a.parquet"), Split.TEST).files
    assert file.rows.cache_files and Path(file.rows.cache_files[0]["filename"]).is_file()


def test_splits_come_from_their_own_files_and_null_is_empty(write):
    train, test = write(numbered(0, 4), "train.parquet"), write(numbered(4, 6), "test.jsonl")
    tasks = QuestionFiles(train=[train], val=None, test=test, question_marker=None, limit=None)
    assert [len(tasks.split(split)) for split in Split] == [4, 0, 2]
    assert tasks.split(Split.TRAIN) is tasks.split(Split.TRAIN)


def test_own_files_reach_the_data_module(composed, write):
    path = write([verl()], "mine.parquet")
    overrides = ("data=search_qa", f"data.tasks.train=[{path}]", "data.tasks.limit=1")
    module = instantiate(composed(*overrides).data.module, _convert_="all")
    assert module.tasks.split(Split.TRAIN)[0].question == QUESTION
    assert (module.prompts_per_iteration, module.group_size, module.mini_batch_prompts) == (64, 16, 8)


def test_training_draws_own_questions(composed, write, tmp_path):
    questions = [f"What is the {relation} of Bemi?" for relation in ("mayor", "country", "star", "year", "seat")]
    rows = [DIALECTS["verl"](question, ["Varo"]) for question in questions]
    train, val = write(rows[:4], "train.parquet"), write(rows[4:], "val.jsonl")
    corpus = write([{"id": "0", "contents": "The mayor of Bemi is Varo."}], "corpus.jsonl")
    config = composed(
        *(*SMALL, "experiment=a2tgpo", "data=search_qa", "data/dialect=text_tags", "data/retriever=bm25"),
        *(f"data.tasks.train={train}", f"data.tasks.val={val}", f"paths.policy_dir={SHIPPED}"),
        *(f"data.retriever.corpus_path={corpus}", f"data.retriever.cache_dir={tmp_path}"),
        *("data.module.prompts_per_iteration=4", "data.module.mini_batch_prompts=4", "trainer.max_epochs=1"),
        *(f"data.module.max_{what}" for what in ("prompt_tokens=64", "response_tokens=96", "action_tokens=16")),
    )
    learner = fit(config, []).lightning_module
    assert sorted({t.task.question for t in learner.trajectories}) == sorted(questions[:4])


def test_reading_questions_needs_no_torch():
    code = "import sys, a2tgpo.tasks.question_files, a2tgpo.tasks.benchmarks; sys.exit('torch' in sys.modules)"
    source = Path(__file__).parents[2] / "src"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(source)}, check=False).returncode == 0


# ---- what is refused -------------------------------------------------------------------------------------------------

BAD_ROWS = {
    "no answer in the list": (verl(truth=[]), "column reward_model.ground_truth: got []; expected at least one"),
    "no answer under target": (verl(truth={"target": []}), "column reward_model.ground_truth.target: got []; expected"),
    "only blank aliases": (
        verl(truth=" <|answer_split|> "),
        "column reward_model.ground_truth: got ' <|answer_split|>",
    ),
    "null": (
        {"question": "q", "golden_answers": None},
        "column golden_answers: got None; expected a string or a list of strings",
    ),
    "a list as text": (
        {"question": "q", "golden_answers": "['a', 'b']"},
        "column golden_answers: got \"['a', 'b']\"; expected a string or a list of strings, not the text of a list",
    ),
    "a list as JSON": (
        {"question": "q", "answer": ['["a"]']},
        "column answer: got ['[\"a\"]']; expected a string or a list",
    ),
    "number": ({"question": "q", "answer": 7}, "column answer: got 7; expected a string or a list of strings"),
    "number in a list": ({"question": "q", "answer": ["a", 7]}, "column answer: got ['a', 7]; expected a string or"),
    "no ground_truth": (
        verl(reward_model={"style": "rule"}),
        "column reward_model: got {'style': 'rule'}; expected an object with ground_truth",
    ),
    "no object": ({"prompt": "q", "reward_spec": "a"}, "column reward_spec: got 'a'; expected an object with ground"),
    "no target": (verl(truth={"goal": ["x"]}), "column reward_model.ground_truth.target: got None; expected a string"),
    "blank question": ({"question": " ", "answer": "x"}, "column question: got ' '; expected a question: text that"),
    "question of a wrong type": ({"question": 5, "answer": "x"}, "column question: got 5; expected a question: text"),
    "extra_info.question": (
        {"prompt": "q", "extra_info": {"question": 5}, "answer": "x"},
        "column extra_info.question: got 5; expected a question",
    ),
    "nobody asks": (
        {"prompt": [{"role": "system", "content": "hi"}], "answer": "x"},
        "column prompt: got [{'content': 'hi', 'role': 'system'}]; expected text, or messages of which one has role",
    ),
    "picture": ({"prompt": said([{"type": "image"}]), "answer": "x"}, "column prompt: got [{"),
    "messages that are none": ({"prompt": ["q"], "answer": "x"}, "column prompt: got ['q']; expected messages with"),
    "nothing after the marker": (
        {"prompt": "Question: ", "answer": "x"},
        "column prompt: got ' '; expected a question",
    ),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_row_is_refused_with_file_row_and_column(write, name):
    row, expected = BAD_ROWS[name]
    good = {**row, "question": "q", "prompt": "q", "answer": "x", "golden_answers": ["x"]}
    good = {key: good[key] for key in row} | {k: {"ground_truth": "x"} for k in row if k.startswith("reward")}
    good |= {"extra_info": {"question": "q"}} if "extra_info" in row else {}
    path = write([good, good, row], "bad.jsonl")
    questions = open_questions("data.tasks.test", path, Split.TEST, question_marker="Question:")
    assert questions[1].answers == ("x",)
    with pytest.raises(ValueError) as raised:
        questions[2]
    assert str(raised.value).startswith(f"{path}, row 2, {expected}")


def test_a_bad_row_is_found_when_its_split_is_opened(write):
    path = write([{"question": "q", "answer": "x"}] * 20 + [{"question": "q", "answer": ""}], "late.jsonl")
    tasks = QuestionFiles(path, None, None, question_marker=None, limit=None)
    with pytest.raises(ValueError, match="row 20, column answer"):
        tasks.split(Split.TRAIN)


@pytest.mark.parametrize("rest", [["Lint"], ["Lint"] * 98, ["New York City, New York"] * 50])
def test_aliases_that_are_joined_by_commas_are_warned_of_once(write, caplog, rest):
    joined = ["14 December 1972 UTC, December 1972", "the Lint, Lint"]
    path = write([{"question": "q", "golden_answers": [answer]} for answer in [*rest, *joined]], "nq.jsonl")
    QuestionFiles(path, None, None, question_marker=None, limit=None).split(Split.TRAIN)
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    count = len(joined) + (len(rest) if "," in rest[0] else 0)
    example = rest[0] if "," in rest[0] else joined[0]
    assert len(told) == 1 and told[0].startswith(
        f"{path}: {count} of {len(rest) + 2} accepted answers read like several that are joined by commas, such as "
        f"{example!r}, and count as one text; expected a list"
    )


@pytest.mark.parametrize(
    "rows",
    [
        [["Paris, France"], ["1,000"], ["a, b and c"], ["the end,"]] * 5,
        [["December 1972, 1972", "1972"]] * 5,
        [["Kansas City, Kansas"], *[["Lint"]] * 99],
    ],
)
def test_commas_of_one_answer_are_not_warned_of(write, caplog, rows):
    path = write([{"question": "q", "golden_answers": answers} for answers in rows], "nq.jsonl")
    QuestionFiles(path, None, None, question_marker=None, limit=None).split(Split.TRAIN)
    assert not caplog.records


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"question": "q", "label": "x"},
            "no ground truth in its columns label, question; expected one of reward_model",
        ),
        ({"text": "q", "answer": "x"}, "no question in its columns answer, text; expected one of question, Question"),
    ],
)
def test_missing_columns_are_refused_when_the_file_is_opened(write, row, expected):
    path = write([row], "bad.parquet")
    assert message(path).startswith(f"{path}: {expected}")


def test_files_that_cannot_be_read_are_refused_by_name(tmp_path):
    files = {
        "a.jsonl": (b'{"question": \n', "line 1: expected one JSON object in UTF-8: "),
        "b.parquet": (b"nope", "cannot be read: "),
        "c.jsonl": (b"", "no rows; expected at least one question"),
        "d.jsonl": (b'{"question": "q", "answer": "x"}\n["q"]', "line 2: expected one JSON object, found list"),
        "e.jsonl": ('{"question": "caf\xe9"}'.encode("latin-1"), "line 1: expected one JSON object in UTF-8: 'utf-8'"),
    }
    for name, (contents, expected) in files.items():
        (tmp_path / name).write_bytes(contents)
        assert message(f"{tmp_path}/{name}").startswith(f"data.tasks.test={tmp_path}/{name}: {expected}")
    Dataset.from_dict({"question": [], "answer": []}).to_parquet(tmp_path / "f.parquet")
    assert (
        message(f"{tmp_path}/f.parquet")
        == f"data.tasks.test={tmp_path}/f.parquet: no rows; expected at least one question"
    )
    (tmp_path / "g.txt").touch()
    expected = (
        "a file of another kind; expected one that ends in .parquet, .jsonl, .json, .csv, .tsv, a pattern of them, "
    )
    assert message(f"{tmp_path}/g.txt").startswith(f"data.tasks.test={tmp_path}/g.txt: {expected}")


ARRAY = "expected one array of JSON objects, or an object that holds it as Data"
TABLE = "expected a first line that names the columns, and a row a line in UTF-8"
BAD_FILES = {
    "lines.json": (b'{"question": "q", "answer": "x"}\n{"question": "q", "answer": "x"}', "Extra data", ARRAY),
    "cut.json": (b'[{"question": "q", "answer": "x"}', "cannot be read", ARRAY),
    "object.json": (b'{"question": "q", "answer": "x"}', "got {'answer': 'x', 'question': 'q'}", ARRAY),
    "texts.json": (b'["q"]', "got ['q']", ARRAY),
    "none.json": (b"[]", "no rows", "expected at least one question"),
    "latin.json": ('[{"question": "caf\xe9"}]'.encode("latin-1"), "'utf-8' codec", ARRAY),
    "empty.csv": (b"", "Empty CSV file", TABLE),
    "header.csv": (b"question,answer\n", "no rows", "expected at least one question"),
    "short.csv": (b"question,answer\nq\n", "Row #2: Expected 2 columns, got 1", TABLE),
    "comma.csv": (b"question,answer\nq,x\nWhere?,Paris, France\n", "Row #3: Expected 2 columns, got 3", TABLE),
    "open.csv": (b'question,answer\n"q,x\n', "Row #2: Expected 2 columns, got 1", TABLE),
    "twice.csv": (b"question,answer,answer\nq,x,y\n", "two of the columns question, answer, answer", TABLE),
    "latin.tsv": ("question\tanswer\ncaf\xe9\tx\n".encode("latin-1"), "invalid UTF8", TABLE),
    "headless.tsv": (b"who made it\t['Varo']\n", "no rows", "expected at least one question"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_not_what_its_suffix_says_is_refused(tmp_path, name):
    contents, reason, expected = BAD_FILES[name]
    (tmp_path / name).write_bytes(contents)
    said = message(f"{tmp_path}/{name}")
    assert said.startswith(f"data.tasks.test={tmp_path}/{name}: ") and reason in said and expected in said


@pytest.mark.parametrize("entry", ["/nowhere/a.parquet", "/nowhere/*.json", "folder/a.csv", "notes.txt", "a b/c"])
def test_files_that_are_missing_are_refused_by_name(entry):
    assert message(entry).startswith(f"data.tasks.test={entry}: no such file; expected one that ends in .parquet, ")


@pytest.mark.parametrize("entries", [5, [5], {"a": "b"}])
def test_entries_that_are_no_texts_are_refused(entries):
    assert message(entries) == f"data.tasks.test={entries}: " + (
        "expected a file, a pattern of files, a hub id, a list of these, or null"
    )


def test_a_split_that_a_data_set_lacks_is_refused(write, tmp_path, monkeypatch):
    write(numbered(0, 2), "owner/set/train.jsonl")
    monkeypatch.chdir(tmp_path)
    assert message("owner/set@dev").startswith("data.tasks.test=owner/set@dev: cannot be read: Unknown split")
    assert message("owner/set@dev", limit=1).startswith("data.tasks.test=owner/set@dev: cannot be read: Bad split")


def test_one_name_in_two_formats_is_refused(write, tmp_path):
    write(numbered(0, 1), "nq.jsonl"), write(numbered(0, 1), "nq.parquet")
    assert "matches nq.jsonl, nq.parquet; expected files of one format" in message(f"{tmp_path}/nq.*")


def test_a_limit_of_none_at_all_is_refused():
    assert message([], limit=0) == "data.tasks.limit=0: expected an integer >= 1 or null"
