import mutations
import pytest


@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_sentences_are_survived(seed: int) -> None:
    lines, fixes = mutations.survive(mutations.mutated(mutations.bodies(), 10_000, seed))
    assert lines == 10_000
    assert fixes > 50


@pytest.mark.parametrize("seed", [1, 2])
def test_what_can_be_derived_of_a_damaged_sentence_comes_out_and_nothing_else(seed: int) -> None:
    bodies = mutations.bodies()
    judged, positions = mutations.judge(bodies, 10_000, seed)
    assert judged > 9_000
    assert positions > 200


@pytest.mark.parametrize("seed", [1, 2])
def test_what_can_be_derived_of_a_damaged_report_of_gpsd_comes_out_and_nothing_else(
    seed: int,
) -> None:
    judged, positions = mutations.judge_reports(10_000, seed)
    assert judged > 9_000
    assert positions > 1_000
