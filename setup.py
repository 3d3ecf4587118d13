"""What pyproject.toml cannot say: in a wheel the entry points and the configs are inside the package."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithEntryPoints(build_py):
    """Builds the package with `src/*.py` as its `commands/`, and with `configs/`; an editable install needs neither."""

    def moved(self) -> dict[Path, Path]:
        """Files of the checkout, by where they are built."""
        inside = Path(self.build_lib) / "a2tgpo"
        found = {path: inside / "commands" / path.name for path in Path("src").glob("*.py")}
        yamls = [path for path in Path("configs").rglob("*.yaml") if path.parts[1] != "local"]
        return found | {path: inside / path for path in yamls}

    def get_source_files(self) -> list[str]:
        """What goes into a source distribution."""
        return [*super().get_source_files(), *map(str, self.moved())]

    def run(self) -> None:
        """Build."""
        super().run()
        for source, target in {} if self.editable_mode else self.moved().items():
            self.mkpath(str(target.parent))
            self.copy_file(str(source), str(target))


setup(cmdclass={"build_py": BuildWithEntryPoints})
