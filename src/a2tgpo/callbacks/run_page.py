"""view.html: the run as a page that shows every turn."""

from pathlib import Path

from lightning import Callback, Trainer

from a2tgpo.callbacks.protocols import ObservedLearner
from a2tgpo.viewer.page import PAGE, write_page
from a2tgpo.viewer.run_data import read_run, rollout_files


class RunPage(Callback):
    """Writes the page of the run in `directory` once it was tested; none where it left no rollout file.

    It stands behind the callbacks whose files it reads.
    """

    def __init__(self, directory: str) -> None:
        self.directory = Path(directory)

    def on_test_end(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """Write the page."""
        if trainer.is_global_zero and rollout_files(self.directory):
            write_page(read_run(self.directory), self.directory / PAGE)
