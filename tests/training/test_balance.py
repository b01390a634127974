"""Weights of terms, against cases worked out by hand."""

import pytest

from vqmm.training.balance import Balance, Running, ratio


def test_an_average_has_no_bias_towards_its_start():
    running = Running(0.9)
    assert running.value is None
    running.add(5.0)
    assert running.value == pytest.approx(5.0)
    running.add(1.0)
    assert running.value == pytest.approx((0.9 * 5 + 1) / 1.9)
    again = Running(0.9)
    again.load_state_dict(running.state_dict())
    assert again.value == running.value


def test_the_adaptive_weight_is_the_ratio_of_norms():
    assert ratio(3.0, 1.5) == pytest.approx(2, rel=1e-3)
    assert ratio(3.0, 0.0) == pytest.approx(1e4), "at most"
    assert ratio(0.0, 1.0) == 0


def test_factors_come_from_the_steps_before():
    balance = Balance({"adversarial": 0.8, "other": 2.0}, "adaptive", memory=0.0)
    assert balance.factors() == {"adversarial": 0, "other": 0}, "nothing was measured yet"
    balance.update(6.0, {"adversarial": 3.0, "other": 12.0})
    assert balance.factors() == pytest.approx({"adversarial": 1.6, "other": 1.0}, rel=1e-3)
    balance.update(1.0, {"adversarial": 4.0, "other": 1.0})
    assert balance.factors() == pytest.approx({"adversarial": 0.2, "other": 2.0}, rel=1e-3), "without memory"


def test_memory_averages_norms_and_survives_a_copy():
    balance = Balance({"a": 1.0}, "gradient", memory=0.5)
    balance.update(1.0, {"a": 2.0})
    balance.update(3.0, {"a": 2.0})
    assert balance.factors()["a"] == pytest.approx((0.5 * 1 + 3) / 1.5 / 2, rel=1e-3)
    again = Balance({"a": 1.0}, "gradient", memory=0.5)
    again.load_state_dict(balance.state_dict())
    assert again.factors() == balance.factors()


def test_fixed_weights_are_as_they_are():
    assert Balance({"a": 0.3}, "fixed", 0.9).factors() == {"a": 0.3}
