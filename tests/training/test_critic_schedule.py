"""When a critic learns and counts, and what holds it back."""

import pytest

from vqmm.contracts.adversary import Adversary
from vqmm.training.critic_schedule import CriticSchedule


def course(steps=100, higher=True, **options):
    return CriticSchedule(Adversary.Options(**options), steps, higher)


def phases(made, steps=100):
    return ["".join("-wc"[made.watches(step) + made.counts(step)] for step in range(steps))]


def test_a_share_of_the_run():
    assert phases(course(start=0.3, warm=0.1)) == ["-" * 20 + "w" * 10 + "c" * 70]
    assert phases(course(start=0.0, warm=0.1)) == ["w" * 10 + "c" * 90], "it warms up in any case"
    assert phases(course(start=0.0, warm=0.0)) == ["c" * 100]
    assert phases(course(start=1.0, warm=0.0)) == ["-" * 100]


def test_flat_reconstruction_starts_it_and_the_latest_share_does_in_any_case():
    made = course(warm=0.05, latest=0.8)
    assert phases(made) == ["-" * 75 + "w" * 5 + "c" * 20]
    for step, value in enumerate((20.0, 25.0, 28.0, 28.001, 28.0, 28.002)):
        assert made.evaluated(5 * step, value) == [], step
    (event,) = made.evaluated(30, 28.003)  # four looks without more than 0.3% over the best before
    assert event.event == "critic_starts" and "counts from step 35 on" in event.said
    assert phases(made) == ["-" * 30 + "w" * 5 + "c" * 65]
    assert made.evaluated(31, 28.0) == [], "it starts once"


def test_flat_is_flat_where_lower_is_better():
    made = course(higher=False)
    values = [1.0, 0.5, 0.2, 0.2, 0.1999, 0.1999, 0.1999]
    assert [len(made.evaluated(i, value)) for i, value in enumerate(values)] == [0] * 6 + [1]


def test_it_rests_while_it_wins_and_learns_again():
    made = course(start=0.0, warm=0.0, pause_above=0.9)
    events = [event for step in range(3) for event in made.update(step, -1.0, 1.0, 1.0, 0.1)]
    assert [event.event for event in events] == ["critic_pauses"] and "accuracy is 100%" in events[0].said
    assert made.paused and made.watches(3) and not made.learns(3)
    for step in range(3, 40):
        made.update(step, 0.0, 0.0, 0.5, 0.1)
    assert made.learns(40)
    assert course(start=0.0, warm=0.0, pause_above=None).learns(0)


def test_it_does_not_rest_while_it_warms_up():
    made = course(start=0.5, warm=0.2, pause_above=0.9)
    made.update(35, -1.0, 1.0, 1.0, 0.1)
    assert made.learns(36) and not made.learns(50)


def test_what_tells_outputs_and_targets_apart_is_half_way():
    made = course(start=0.0, warm=0.0)
    assert made.threshold == 0
    made.update(0, 3.0, 5.0, 0.5, 0.1)
    assert made.threshold == pytest.approx(4) and made.margin == pytest.approx(2)


def test_trust_shrinks_while_reconstruction_suffers_and_comes_back():
    made = course(start=0.1, warm=0.1, tolerance=0.1)
    for step in range(10):
        made.update(step, 0, 0, 0.5, 1.0)
    assert made.level == pytest.approx(1.0), "what it was when the critic began to count"
    events = [event for step in range(10, 60) for event in made.update(step, 0, 0, 0.5, 1.5)]
    assert [event.event for event in events] == ["critic_held_back"]
    low = made.loss_scale
    assert low == 0.01 and made.worse > 0.2, "as low as it gets"
    for step in range(60, 400):
        made.update(step, 0, 0, 0.5, 1.0)
    assert made.loss_scale == 1.0
    free = course(start=0.0, warm=0.0, tolerance=None)
    for step in range(20):
        free.update(step, 0, 0, 0.5, float(step))
    assert free.loss_scale == 1.0


def test_a_course_goes_on_after_a_stop():
    one, other = (course(start="flat", pause_above=0.9) for _ in range(2))
    for step in range(3):
        one.evaluated(step, 20.0 + step)
    other.load_state_dict(one.state_dict())
    assert other.values == [20.0, 21.0, 22.0] and other.level is None
    for step in range(46, 60):
        one.update(step, -0.5, 1.0, 0.93, float(step) ** 4)
    other.load_state_dict(one.state_dict())
    assert (
        other.state_dict() == one.state_dict() and other.paused == one.paused and other.loss_scale == one.loss_scale < 1
    )
