"""docs/models_and_data.md, followed literally: its commands, with a small random Qwen3 in place of the
hub's, a small corpus, and a free port."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.helpers.model_zoo import build

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = (ROOT / "docs" / "models_and_data.md").read_text()
COMMANDS = [
    line for line in re.search(r"```bash\n(.*?)```", DOCUMENT, re.S)[1].splitlines() if line.startswith("python")
]
FEW = "data.module.prompts_per_iteration=4 data.module.mini_batch_prompts=2 data.module.group_size=2 "
FEW += "data.module.max_prompt_tokens=700 data.module.max_response_tokens=250 data.module.max_action_tokens=20 "
FEW += "data.module.val_tasks=2 data.module.test_tasks=2 data.module.max_sessions=8 trainer.max_epochs=1 threads=1"
VALIDATE = "trainer.check_val_every_n_epoch=1"
SETS = ("hotpotqa", "two_wiki", "musique", "bamboogle", "nq", "triviaqa", "popqa")
CITIES = {f"Land {i}": f"Town {i}" for i in range(12)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a corpus, questions, benchmark sets and a model."""
    folder = tmp_path_factory.mktemp("own")
    passages = [
        {"id": str(i), "contents": f'"{land}"\nIts capital is {city}.'} for i, (land, city) in enumerate(CITIES.items())
    ]
    questions = [
        {"question": f"What is the capital of {land}?", "golden_answers": [city]} for land, city in CITIES.items()
    ]
    (folder / "question_sets").mkdir()
    for name, rows in {
        "corpus": passages,
        "train": questions[:8],
        "val": questions[8:],
        **{f"question_sets/{name}": questions[:2] for name in SETS},
    }.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    build("qwen3", folder / "Qwen" / "Qwen3-0.6B")
    return folder


def run(place, command, **replaced):
    """The command as the document has it, but for what stands in `replaced`."""
    for text, other in replaced.items():
        assert text in command
        command = command.replace(text, other)
    python, script, *arguments = shlex.split(command)
    assert python == "python"
    environment = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"} | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=place,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finished(process):
    try:
        output, _ = process.communicate(timeout=200)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def server(place):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = run(place, f"{COMMANDS[0]} port={port} data.retriever.cache_dir={place}/indexes")
    for _ in range(200):
        assert process.poll() is None, process.communicate()[0]
        try:
            if httpx2.get(f"http://127.0.0.1:{port}/health", timeout=1.0).status_code == 200:
                break
        except httpx2.TransportError:
            time.sleep(0.1)
    yield f"data.retriever.url=http://127.0.0.1:{port}/retrieve"
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(20)


@pytest.mark.slow
def test_serve_train_evaluate_export(place, server):
    serve, train, evaluate, export = COMMANDS
    assert "src/serve.py" in serve
    model = {"Qwen/Qwen3-0.6B": str(place / "Qwen" / "Qwen3-0.6B")}
    logs = f"paths.log_dir={place}/logs"
    said = finished(run(place, f"{train} {server} {FEW} {VALIDATE} {logs} trainer=default", **model))
    (run_dir,) = (place / "logs" / "train" / "runs").iterdir()
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["iterations"], summary["optimizer_steps"]) == (1, 2)

    where = {"logs/train/runs/RUN": str(run_dir), "device=cuda": "device=cpu"}
    few = FEW.partition("data.module.val_tasks")[0]
    output = finished(run(place, f"{evaluate} {server} {few} {logs} questions=2", **model, **where))
    assert "HotpotQA" in output
    (eval_dir,) = (place / "logs" / "eval" / "runs").iterdir()
    assert {path.name for path in eval_dir.iterdir()} >= {"benchmarks.json", "benchmarks.csv", "benchmarks.md"}

    finished(run(place, export, **{"logs/train/runs/RUN": str(run_dir)}))
    exported = AutoModelForCausalLM.from_pretrained(place / "exported")
    tokenizer = AutoTokenizer.from_pretrained(place / "exported")
    trained = torch.load(run_dir / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, trained[f"model.{name}"]) for name, tensor in exported.state_dict().items())
    assert tokenizer.chat_template

    next_commands = dict(re.findall(r"^(?:next:)? *(\w+(?: \w+)+) +(python .*)$", said, re.M))
    assert list(next_commands) == ["eight samples a question", "another method", "swap one part"]
    twin = finished(run(place, f"{next_commands['another method']} {logs}"))
    assert "success of grpo_pretrained" in twin
    finished(run(place, f"{next_commands['eight samples a question'].replace('=8', '=2')} {logs} questions=2"))
    assert "parameters" in finished(run(place, f"{train} {server} {FEW} {logs} debug=shapes", **model))


def test_commands_of_the_section_are_these():
    assert [command.split()[1] for command in COMMANDS] == [
        "src/serve.py",
        "src/train.py",
        "src/eval.py",
        "src/export.py",
    ]
