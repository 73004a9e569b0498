import mutations
import pytest


@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_sentences_are_survived(seed: int) -> None:
    lines, fixes = mutations.survive(mutations.mutated(mutations.bodies(), 10_000, seed))
    assert lines == 10_000
    assert fixes > 50
