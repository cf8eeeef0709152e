"""The real engine over the stand-in's weights, loaded once."""

from pathlib import Path

import pytest
from tests.sampling import load

from twofold_worker.upscaler.diffusion import DiffusionUpscaler


@pytest.fixture(scope="session")
def upscaler(stand_in_model: Path) -> DiffusionUpscaler:
    """In single precision; a test leaves it as it was."""
    return load(stand_in_model)
