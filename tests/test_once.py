"""Properties that are computed once: what a workflow, a run or a record is asked again and again."""

from __future__ import annotations

from configurable_agents.once import Once


class Square:
    """Something with a property that takes long."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.computed = 0

    @Once
    def area(self) -> int:
        """Its area."""
        self.computed += 1
        return self.side**2


def test_a_property_is_computed_when_it_is_first_asked_for_and_then_kept_for_each_object() -> None:
    small, large = Square(2), Square(3)
    assert (small.computed, small.area, small.area, large.area) == (0, 4, 4, 9)
    assert (small.computed, large.computed) == (1, 1)


def test_whoever_lists_what_a_class_has_finds_the_property_and_what_it_is() -> None:
    """`help(WorkflowRunRecord)` asks the class itself for each of its attributes."""
    assert Square.area.__doc__ == "Its area."
