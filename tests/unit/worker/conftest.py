"""The real engine over the stand-in's weights, loaded once."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.sampling import load

from twofold_worker.upscaler.diffusion import DiffusionUpscaler


@pytest.fixture(scope="session")
def upscaler(stand_in_model: Path) -> DiffusionUpscaler:
    """In single precision; a test leaves it as it was."""
    return load(stand_in_model)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """So small networks wait for each other's threads longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def diffusers_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What diffusers logs; it does not pass records up to the root."""
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)
