"""Trackio, a tracker on one's own machine or on a Hugging Face Space, as a logger of Lightning."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only


class TrackioLogger(Logger):
    """One run `name` of `project`, in a `group` of like ones, kept where TRACKIO_DIR says, or on the Space `space_id`.

    Raises ValueError where Trackio is not installed.
    """

    def __init__(self, project: str, name: str, group: str, space_id: str | None) -> None:
        super().__init__()
        if find_spec("trackio") is None:
            raise ValueError(
                "logger=trackio: the package 'trackio' is not installed; expected the extra 'trackio': "
                "pip install --editable '.[trackio]'"
            )
        self._project, self._name, self._group, self._space_id = project, name, group, space_id
        self._config: dict[str, Any] = {}
        self._run: Any = None

    @property
    def name(self) -> str:
        """The project."""
        return self._project

    @property
    def version(self) -> str:
        """The run."""
        return self._name

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The `trackio.Run`, begun at first use and finished when the process ends."""
        if self._run is None:
            import trackio

            settings = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
            settings |= {"group": self._group, "space_id": self._space_id, "config": self._config}
            self._run = trackio.init(self._project, name=self._name, **settings)
        return self._run

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Values of the run's configuration, which Trackio takes when a run begins: before the first number."""
        self._config |= params

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Numbers, or Trackio's own types, after `step` optimizer steps."""
        self.experiment.log(dict(metrics), step)
