"""What `loop.train` asks of each way to train."""

import pathlib
from typing import Protocol

import ml_collections

from boneage_jax.data.source import Split


class Trainer(Protocol):
    """One way to train, `loop.TRAINERS[config.trainer]`."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: pathlib.Path,
        splits: dict[str, Split],
        about: dict,
    ):
        """Builds what the run needs; `about` is what metrics.json shall say of its images."""

    @staticmethod
    def check(config: ml_collections.ConfigDict, *, fresh: bool):
        """Raises ConfigError for what could not be built later, before any data is touched.

        `fresh`: the run does not go on from a checkpoint of its own.
        """

    def run(self) -> dict | None:
        """Trains to the end and reports: the content of metrics.json, None where it was stopped."""
