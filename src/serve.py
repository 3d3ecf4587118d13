"""Serve a retriever over HTTP until Ctrl-C or SIGTERM.

python src/serve.py data.retriever.corpus_path=corpus.jsonl port=8000
"""

import signal
import threading

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from a2tgpo.retrievers.protocols import PassageRetriever
from a2tgpo.retrievers.server import RetrievalServer
from error_lines import one_line_errors
from launch import CONFIGS, launch, prepare_process, quiet_libraries, require_settings

prepare_process()


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="serve")
def main(config: DictConfig) -> None:
    """Build the retriever, serve it."""
    with one_line_errors():
        require_settings(config)
        quiet_libraries()
        retriever = instantiate(config.data.retriever, _convert_="all")
        if not isinstance(retriever, PassageRetriever):
            raise ValueError(
                f"data/retriever: {type(retriever).__name__} has no scores to serve; expected bm25 or dense"
            )
        server = open_server(config, retriever)
    stopped = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda number, frame: stop(stopped))
    with server:
        print(f"serving {type(retriever).__name__} at {server.url}", flush=True)
        stopped.wait()
    print("stopped", flush=True)


def open_server(config: DictConfig, retriever: PassageRetriever) -> RetrievalServer:
    """Take the port. Raises ValueError where it cannot be had."""
    try:
        return RetrievalServer(retriever, config.host, config.port, config.topk, config.window, config.max_batch)
    except OSError as error:
        where = f"port={config.port}, host={config.host}"
        raise ValueError(f"{where}: {error.strerror}; expected a free port of this machine") from error


def stop(stopped: threading.Event) -> None:
    """Answer what has been asked, then end; a second signal ends at once."""
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, signal.SIG_DFL)
    stopped.set()


if __name__ == "__main__":
    launch(main)
