"""The real engine over the stand-in's weights, loaded once."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.sampling import load

from twofold_worker.upscaler.diffusion import DiffusionUpscaler


@pytest.fixture(scope="session")
def upscaler(stand_in_model: Path) -> DiffusionUpscaler:
    """In single precision; a test leaves it as it was."""
    return load(stand_in_model)


@pytest.fixture
def diffusers_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What diffusers logs; it does not pass records up to the root."""
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)
