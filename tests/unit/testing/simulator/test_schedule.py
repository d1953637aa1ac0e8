"""The clock of a simulation, and the calls planned in it."""

from gmdp.testing.simulator.schedule import Schedule


def test_calls_are_made_in_order_of_time_then_of_planning():
    schedule, made = Schedule(), []
    schedule.at(2.0, made.append, "second")
    schedule.after(1.0, made.append, "first")
    schedule.at(2.0, made.append, "third")
    schedule.run(3)
    assert made == ["first", "second", "third"]
    assert (schedule.now, schedule.clock(), schedule.steps) == (3.0, 3.0, 3)


def test_a_call_planned_for_the_past_is_made_now():
    schedule, times = Schedule(), []
    schedule.run(5)
    schedule.at(1.0, lambda: times.append(schedule.now))
    schedule.run(1)
    assert times == [5.0]


def test_a_step_goes_no_further_than_it_may():
    schedule, steps = Schedule(), []
    schedule.on_step = lambda: steps.append(schedule.now)
    schedule.at(2.0, list)
    assert not schedule.step(until=1.9)
    assert schedule.now == 0.0
    assert schedule.step(until=2.0)
    assert not schedule.step(until=100.0)
    assert steps == [2.0]


def test_one_seed_draws_the_same_and_another_one_does_not():
    draws = [Schedule(seed).random.random() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_the_trace_shows_the_time_and_the_words():
    lines = []
    schedule = Schedule(trace=lines.append)
    schedule.run(1.5)
    schedule.record("a", b"b", 3)
    assert [line.split() for line in lines] == [["1.500000", "a", "b'b'", "3"]]
    Schedule().record("without a trace")
