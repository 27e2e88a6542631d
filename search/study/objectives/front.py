"""Which of several points in two objectives are beaten by no other."""

import math
from collections.abc import Iterable
from typing import TypeVar

Item = TypeVar("Item")


def undominated(points: Iterable[tuple[float, float, Item]]) -> list[Item]:
    """The Pareto front of (value, cost, item): value is to be high, cost low.

    Of points that are equal in both, the first stays.

    Returns:
        The items to which no other is at least equal in both and better in one, the highest value first.
    """
    front: list[Item] = []
    least = math.inf
    for _, cost, item in sorted(points, key=lambda point: (-point[0], point[1])):
        if cost < least:
            front.append(item)
            least = cost
    return front
