"""Damping as the kernel does it."""

from __future__ import annotations

import math

import pytest

from vzpy import loadavg


def test_a_constant_load_is_what_the_averages_come_to():
    averages = [0.0, 0.0, 0.0]
    for _ in range(2 * 60 * 2):  # two hours in steps of half a minute
        averages = loadavg.damped(averages, 3, 30)
    assert averages == pytest.approx([3, 3, 3], abs=0.01)


@pytest.mark.parametrize("step", [5, 30, 60])
def test_after_one_minute_the_first_has_63_per_cent(step):
    averages = [0.0, 0.0, 0.0]
    for _ in range(60 // step):
        averages = loadavg.damped(averages, 1, step)
    assert averages == pytest.approx([1 - math.exp(-1 / m) for m in (1, 5, 15)])


def test_no_time_changes_nothing():
    assert loadavg.damped([1.0, 2.0, 3.0], 9, 0) == [1.0, 2.0, 3.0]
