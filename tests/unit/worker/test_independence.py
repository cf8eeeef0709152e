"""At a pinned rung a sample is its own, to the bit, whoever else is in the batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sampling import advance, load, of_latents, of_picture

from twofold_worker.upscaler.diffusion import DiffusionSample, DiffusionUpscaler
from twofold_worker.upscaler.port import Made, Request

RUNG: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A request that comes to the batch.

    Attributes:
        comes: The round from which on it wants in.
        leaves: After how many steps it is cancelled; past its last one, never.
    """

    number: int
    steps: int
    guidance_scale: float
    from_latents: bool
    comes: int
    leaves: int

    @property
    def request(self) -> Request:
        made = of_latents if self.from_latents else of_picture
        return made(self.number, steps=self.steps, guidance_scale=self.guidance_scale)


guests = st.builds(
    Guest,
    number=st.integers(0, 2),
    steps=st.integers(1, 4),
    guidance_scale=st.sampled_from([0.0, 1.0, 3.0]),
    from_latents=st.booleans(),
    comes=st.integers(0, 5),
    leaves=st.integers(1, 12),
)


def _evening(
    upscaler: DiffusionUpscaler, invited: list[Guest], random: Random
) -> Iterator[tuple[Guest, DiffusionSample]]:
    """Who is done, as they are: in each round some step together, in some order."""
    waiting = list(invited)
    present: list[tuple[Guest, DiffusionSample]] = []
    around = 0
    while waiting or present:
        for guest in [guest for guest in waiting if guest.comes <= around]:
            waiting.remove(guest)
            present.append((guest, upscaler.begin(guest.request)))
        random.shuffle(present)
        batch: list[DiffusionSample] = []
        for _, sample in present:
            free = RUNG - sum(other.request.slots for other in batch)
            # Who has a place may sit out a round, but somebody goes on.
            if sample.request.slots <= free and (not batch or random.random() < 0.8):
                batch.append(sample)
        if batch:
            upscaler.step(batch, rung=RUNG)
        yield from (pair for pair in present if pair[1].is_done)
        present = [
            (guest, sample)
            for guest, sample in present
            if not sample.is_done and sample.step < guest.leaves
        ]
        around += 1


class Alone:
    """What becomes of a request by itself."""

    def __init__(self, upscaler: DiffusionUpscaler) -> None:
        self._upscaler = upscaler
        self._known: dict[tuple[int, int, float, bool], tuple[torch.Tensor, Made]] = {}

    def of(self, guest: Guest) -> tuple[torch.Tensor, Made]:
        key = (guest.number, guest.steps, guest.guidance_scale, guest.from_latents)
        if key not in self._known:
            sample = self._upscaler.begin(guest.request)
            advance(self._upscaler, [sample], rung=RUNG)
            self._known[key] = sample.latents, self._upscaler.finish(sample)
        return self._known[key]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def alone(request: pytest.FixtureRequest, stand_in_model: Path) -> Alone:
    return Alone(load(stand_in_model, dtype=request.param))


@settings(max_examples=40, derandomize=True, database=None, deadline=None)
@given(invited=st.lists(guests, min_size=1, max_size=7), random=st.randoms())
def test_whoever_comes_goes_or_sits_beside_it_a_sample_ends_as_it_would_alone(
    alone: Alone, invited: list[Guest], random: Random
) -> None:
    upscaler = alone._upscaler
    for guest, sample in _evening(upscaler, invited, random):
        latents, made = alone.of(guest)
        assert torch.equal(sample.latents, latents)
        assert (upscaler.finish(sample).pixels == made.pixels).all()


@pytest.mark.parametrize("rung", [2, 4, 8, 16, 32])
@pytest.mark.parametrize("guidance_scale", [0.0, 3.0])
def test_at_every_rung_that_can_be_pinned_the_place_does_not_matter(
    upscaler: DiffusionUpscaler, guidance_scale: float, rung: int
) -> None:
    asked = of_latents(1, guidance_scale=guidance_scale)
    count = rung // asked.slots
    ends = []
    for place in {0, count // 2, count - 1}:
        samples = [upscaler.begin(of_latents(2)) for _ in range(count)]
        samples[place] = upscaler.begin(asked)
        advance(upscaler, samples, rung=rung)
        ends.append(samples[place].latents)
    assert all(torch.equal(end, ends[0]) for end in ends)


@pytest.mark.parametrize("guidance_scale", [0.0, 3.0])
def test_no_two_samples_of_a_batch_end_alike(
    upscaler: DiffusionUpscaler, guidance_scale: float
) -> None:
    samples = [
        upscaler.begin(of_picture(number, guidance_scale=guidance_scale)) for number in range(4)
    ]
    advance(upscaler, samples, rung=8)
    assert len({sample.latents.numpy().tobytes() for sample in samples}) == 4


def test_a_sample_that_wants_latents_changes_nothing_beside_it(upscaler: DiffusionUpscaler) -> None:
    ends = []
    for wants in (False, True):
        samples = [
            upscaler.begin(of_picture(1)),
            upscaler.begin(of_picture(2, wants_latents=wants)),
        ]
        advance(upscaler, samples, rung=RUNG)
        ends.append(samples)
    (plain, beside_plain), (same, beside_same) = ends
    assert torch.equal(plain.latents, same.latents)
    assert torch.equal(beside_plain.latents, beside_same.latents)
