"""Lanes, costs and limits: pure functions of a job and of nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold_schema.errors import TooLarge
from twofold_schema.job import Parameters
from twofold_schema.lanes import LATTICE, SizeLimits, measure, padded

SIDES = st.integers(min_value=1, max_value=16384)
ABOVE_ONE = st.floats(min_value=1, max_value=30, exclude_min=True)


def lane(width: int = 512, height: int = 512, **parameters: object) -> str:
    """The lane of a job."""
    return measure(Parameters.model_validate(parameters), width, height).lane


class TestPadded:
    @given(side=SIDES)
    def test_is_the_next_point_of_the_lattice(self, side: int) -> None:
        assert padded(side) % LATTICE == 0
        assert 0 <= padded(side) - side < LATTICE

    @given(side=SIDES)
    def test_a_padded_side_is_not_padded_again(self, side: int) -> None:
        assert padded(padded(side)) == padded(side)


class TestLane:
    @given(width=SIDES, height=SIDES)
    def test_pictures_that_are_padded_alike_share_a_lane(self, width: int, height: int) -> None:
        assert lane(width, height) == lane(padded(width), padded(height))

    @pytest.mark.parametrize(
        "other",
        [
            {"width": 513},
            {"height": 513},
            {"width": 256, "height": 1024},
            {"reproducible": True},
            {"model_revision": "a1b2"},
        ],
    )
    def test_what_a_step_cannot_mix_changes_the_lane(self, other: dict[str, int]) -> None:
        assert lane(**other) != lane()

    @pytest.mark.parametrize(
        "own",
        [
            {"seed": 7},
            {"prompt": "a cat"},
            {"negative_prompt": "x"},
            {"steps": 21},
            {"guidance_scale": 7.5},
        ],
    )
    def test_what_is_each_jobs_own_does_not(self, own: dict[str, object]) -> None:
        assert lane(**own) == lane()  # type: ignore[arg-type]

    def test_a_turned_picture_has_another_lane(self) -> None:
        assert lane(512, 256) != lane(256, 512)

    def test_pinned_jobs_keep_apart(self) -> None:
        assert lane(reproducible=True).endswith("/pinned")
        assert lane().endswith("/free")

    def test_neither_latents_nor_what_the_result_is_keep_apart(self) -> None:
        lane = measure(Parameters(), 512, 512).lane
        assert measure(Parameters(), 512, 512, from_latents=True).lane == lane
        assert measure(Parameters(), 512, 512, to_latents=True).lane == lane


class TestCost:
    def test_what_is_not_encoded_or_decoded_is_not_paid_for(self) -> None:
        costs = [
            measure(
                Parameters(), 512, 512, from_latents=from_latents, to_latents=to_latents
            ).est_gpu_seconds
            for from_latents, to_latents in (
                (True, True),
                (False, True),
                (True, False),
                (False, False),
            )
        ]
        assert costs == sorted(costs)
        assert costs[0] + costs[3] == pytest.approx(costs[1] + costs[2])

    def test_guidance_above_1_costs_another_forward_a_step(self) -> None:
        plain = measure(Parameters(), 512, 512).est_gpu_seconds
        guided = measure(Parameters(guidance_scale=1.5), 512, 512).est_gpu_seconds
        more_steps = measure(Parameters(steps=40), 512, 512).est_gpu_seconds

        assert measure(Parameters(guidance_scale=1.0), 512, 512).est_gpu_seconds == plain
        assert guided == more_steps > plain

    @given(width=SIDES, height=SIDES)
    def test_work_is_in_proportion_to_the_padded_pixels(self, width: int, height: int) -> None:
        unit = measure(Parameters(), LATTICE, LATTICE).est_gpu_seconds
        found = measure(Parameters(), width, height)

        tiles = padded(width) * padded(height) / LATTICE**2
        assert found.est_gpu_seconds == pytest.approx(unit * tiles)
        assert found.pixels == width * height


class TestSizeLimits:
    LIMITS = SizeLimits(max_pixels=100, max_side=20)

    @pytest.mark.parametrize("size", [(10, 10), (20, 5), (5, 20), (1, 1)])
    def test_what_is_at_the_limits_passes(self, size: tuple[int, int]) -> None:
        self.LIMITS.check(*size)

    @pytest.mark.parametrize("size", [(10, 11), (21, 1), (1, 21)])
    def test_what_is_over_one_of_them_does_not(self, size: tuple[int, int]) -> None:
        with pytest.raises(TooLarge, match=f"{size[0]}x{size[1]}"):
            self.LIMITS.check(*size)
