"""The schedules against torch's own, epoch by epoch, and their horizon."""

import itertools

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, OneCycleLR, PolynomialLR

from lcnn.config import CosineRestarts, OneCycle, Polynomial
from lcnn.training.schedule import lr_factor


def torch_factors(make, steps):
    """The learning rates that a scheduler of torch sets from a peak of 1, before each of ``steps`` steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(("t0", "t_mult"), [(10, 2), (5, 1), (1, 1), (1, 3), (100, 2)])
def test_cosine_restarts_equals_torch(t0, t_mult):
    ours = [lr_factor(CosineRestarts(t0=t0, t_mult=t_mult), epoch, 60) for epoch in range(60)]
    assert ours == pytest.approx(torch_factors(lambda o: CosineAnnealingWarmRestarts(o, t0, t_mult), 60), abs=1e-9)


@pytest.mark.parametrize(("t0", "t_mult"), [(10, 2), (2, 3)])
def test_cosine_restarts_equals_torch_within_an_epoch(t0, t_mult):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = CosineAnnealingWarmRestarts(optimizer, t0, t_mult)
    for epoch in [0.25, 1.5, 1.999, 2.0, 7.75, 9.99, 10.01, 25.5, 29.9, 30.5]:
        optimizer.step()
        scheduler.step(epoch)
        ours = lr_factor(CosineRestarts(t0=t0, t_mult=t_mult), epoch, 60)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)


@pytest.mark.parametrize("power", [0.5, 0.9, 1.0, 2.0])
@pytest.mark.parametrize("epochs", [7, 60])
def test_polynomial_equals_torch(power, epochs):
    ours = [lr_factor(Polynomial(power=power), epoch, epochs) for epoch in range(epochs + 1)]
    assert ours == pytest.approx(torch_factors(lambda o: PolynomialLR(o, epochs, power), epochs + 1), abs=1e-6)


@pytest.mark.parametrize("warmup", [0.1, 0.3, 0.5])
def test_one_cycle_rises_in_a_line_to_its_peak_and_falls_to_zero(warmup):
    factors = [lr_factor(OneCycle(warmup=warmup), step / 10, 20) for step in range(201)]
    peak = round(warmup * 200)
    assert factors[0] == pytest.approx(1 / 25)
    assert factors[peak] == pytest.approx(1)
    assert factors[-1] == pytest.approx(0, abs=1e-12)
    rises = [after - before for before, after in itertools.pairwise(factors)]
    assert rises[:peak] == pytest.approx([(1 - 1 / 25) / peak] * peak)
    assert max(rises[peak:]) < 0


def test_one_cycle_falls_as_torch_does():
    # torch's cycle of n steps ends on step n - 1, so 201 of its steps are our 200 tenths of an epoch.
    def cosine(optimizer):
        return OneCycleLR(
            optimizer, 1.0, total_steps=201, pct_start=61 / 201, final_div_factor=1e12, cycle_momentum=False
        )

    theirs = torch_factors(cosine, 200)[60:]
    ours = [lr_factor(OneCycle(warmup=0.3), step / 10, 20) for step in range(60, 200)]
    assert ours == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("schedule", [OneCycle(), Polynomial()])
def test_the_horizon_is_the_full_budget(schedule):
    assert lr_factor(schedule, 20, 20) == pytest.approx(0, abs=1e-12)
    assert lr_factor(schedule, 20, 40) == pytest.approx(lr_factor(schedule, 10, 20))
    assert lr_factor(schedule, 20, 40) > 0.1


@pytest.mark.parametrize("schedule", [CosineRestarts(), OneCycle(), Polynomial()])
def test_factors_stay_between_zero_and_one_even_past_the_budget(schedule):
    factors = [lr_factor(schedule, step / 7, 10) for step in range(140)]
    assert min(factors) >= 0
    assert max(factors) <= 1


def test_something_else_is_no_schedule():
    with pytest.raises(TypeError, match="str is no schedule"):
        lr_factor("cosine", 0, 10)
