"""Laws of choices along the price of a byte."""

from dataclasses import replace
from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dimension_search.errors import SearchError
from dimension_search.precision_evidence import PrecisionEvidence
from dimension_search.precision_policy import (
    ByImportance,
    BySlot,
    PrecisionPolicy,
    Uniform,
    bytes_of,
    policy_named,
    rise_of,
    within_bytes,
    within_rise,
)
from dimension_search.row_importance import LEVELS
from embedding_table.row_codecs import codec_named
from tests.dimension_search.precision_evidences import CODECS, made_evidence

POLICIES = (ByImportance(), BySlot(), Uniform())
policies = st.sampled_from(POLICIES)
evidences = st.integers(0, 1000).map(made_evidence)
prices = st.floats(-60, 0).map(lambda power: 2.0**power)


def cost(evidence: PrecisionEvidence, policy: PrecisionPolicy, price: float) -> float:
    choice = policy.choose(evidence, price)
    return rise_of(evidence, choice) + price * bytes_of(evidence, choice)


@settings(deadline=None, max_examples=50)
@given(policies, evidences, prices, st.floats(1.01, 1000))
def test_a_higher_price_takes_no_more_bytes_and_loses_no_less(
    policy: PrecisionPolicy, evidence: PrecisionEvidence, price: float, factor: float
) -> None:
    cheap, dear = policy.choose(evidence, price), policy.choose(evidence, price * factor)

    assert bytes_of(evidence, dear) <= bytes_of(evidence, cheap)
    assert rise_of(evidence, dear) >= rise_of(evidence, cheap) * (1 - 1e-9)


@settings(deadline=None, max_examples=50)
@given(policies, evidences, st.floats(0, 1), st.floats(0, 1))
def test_budgets_are_kept_and_more_of_one_is_never_worse(
    policy: PrecisionPolicy, evidence: PrecisionEvidence, one: float, other: float
) -> None:
    least, most = bytes_of(evidence, policy.choose(evidence, 1e3)), bytes_of(evidence, policy.choose(evidence, 0))
    rises = []
    for share in sorted((one, other)):
        budget = int(np.ceil(least + share * (most - least)))
        price = within_bytes(policy, evidence, max(budget, 1))
        assert price is not None
        choice = policy.choose(evidence, price)
        assert bytes_of(evidence, choice) <= max(budget, 1)
        rises.append(rise_of(evidence, choice))

    assert rises[1] <= rises[0] * (1 + 1e-9)


@settings(deadline=None, max_examples=50)
@given(policies, evidences, st.floats(0, 1), st.floats(0, 1))
def test_tolerances_are_kept_and_more_of_one_is_never_larger(
    policy: PrecisionPolicy, evidence: PrecisionEvidence, one: float, other: float
) -> None:
    most = rise_of(evidence, policy.choose(evidence, 1e3))
    sizes = []
    for share in sorted((one, other)):
        price = within_rise(policy, evidence, share * most)
        assert price is not None  # fp32 loses nothing
        choice = policy.choose(evidence, price)
        assert rise_of(evidence, choice) <= share * most
        sizes.append(bytes_of(evidence, choice))

    assert sizes[1] <= sizes[0]


def test_what_cannot_fit_has_no_price() -> None:
    evidence = made_evidence()

    assert within_bytes(ByImportance(), evidence, 1) is None
    assert within_rise(ByImportance(), replace(evidence, rise=evidence.rise + 1), 0.5) is None


@settings(deadline=None, max_examples=50)
@given(evidences, prices)
def test_the_finer_a_policy_tells_rows_apart_the_less_it_costs(evidence: PrecisionEvidence, price: float) -> None:
    by_importance, by_slot, uniform = (cost(evidence, policy, price) for policy in POLICIES)

    assert by_importance <= by_slot * (1 + 1e-9) <= uniform * (1 + 2e-9)


@settings(deadline=None, max_examples=50)
@given(evidences, prices)
def test_more_important_rows_have_no_fewer_bits(evidence: PrecisionEvidence, price: float) -> None:
    choice = ByImportance().choose(evidence, price).reshape(evidence.blocks, LEVELS)
    bits = np.array([codec_named(name).bits for name in CODECS])[choice]

    assert np.all(np.diff(bits, axis=1) >= 0)


@settings(deadline=None, max_examples=50)
@given(evidences, policies, prices)
def test_the_same_evidence_gives_the_same_choice(
    evidence: PrecisionEvidence, policy: PrecisionPolicy, price: float
) -> None:
    np.testing.assert_array_equal(policy.choose(evidence, price), policy.choose(evidence, price))


def test_no_ascending_path_is_cheaper() -> None:
    evidence = made_evidence(3, slots=1, bands=1)
    few = tuple(evidence.codecs.index(name) for name in ("int4_minmax_block", "int4_greedy", "int8_minmax", "fp32"))
    evidence = replace(
        evidence,
        codecs=tuple(CODECS[number] for number in few),
        rise=evidence.rise[:, few],
        error=evidence.error[:, few],
    )
    for price in 2.0 ** np.arange(-50, -20, 3):
        paths = combinations_with_replacement(range(4), LEVELS)
        total = evidence.rise + price * evidence.bytes
        least = min(float(total[np.arange(LEVELS), path].sum()) for path in paths)
        assert cost(evidence, ByImportance(), price) == pytest.approx(least, rel=1e-9)


def test_one_codec_a_slot_and_one_for_all() -> None:
    evidence = made_evidence(5)
    by_slot = BySlot().choose(evidence, 1e-9).reshape(2, -1)

    assert all(len(set(slot.tolist())) == 1 for slot in by_slot)
    assert len(set(Uniform().choose(evidence, 1e-9).tolist())) == 1


def test_policies_by_name() -> None:
    assert [policy_named(policy.name) for policy in POLICIES] == list(POLICIES)
    with pytest.raises(SearchError, match="expected one of importance, per_slot, uniform"):
        policy_named("best")
