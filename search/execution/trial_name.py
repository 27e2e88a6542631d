"""The name of a trial where Ray shows it: in the dashboard's list of workers, in Tune's output, in a process list."""

from lcnn.config import TrainConfig


def trial_name(number: int, config: TrainConfig) -> str:
    """The settings that tell trials apart at a glance, and the number, for example ``T2_lr3e-4_local0.7_trial5``."""
    return f"T{config.T}_lr{short_number(config.optim.lr)}_local{config.fusion.local:.2g}_trial{number}"


def short_number(value: float) -> str:
    """A positive number with two digits and its power of ten, for example ``3.2e-4``."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
