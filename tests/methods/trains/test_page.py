"""The shapes that formats/methods/loretta.md prescribes, computed from its words alone, against the package's."""

from __future__ import annotations

from math import prod

from hypothesis import given, settings
from hypothesis import strategies as st

from adaptzip.core.compressed import Site
from adaptzip.methods import load


def modes_of(width: int) -> list[int]:
    primes, divisor, rest = [], 2, width
    while rest > 1:
        if rest % divisor:
            divisor += 1
        else:
            primes.append(divisor)
            rest //= divisor
    small = sorted((p for p in primes if p <= 16), reverse=True)
    modes = [p for p in primes if p > 16]
    if small:
        d = 1
        while prod(small) ** 2 >= 8 ** (2 * d + 1):
            d += 1
        d = min(d, len(small))
        more = [1] * d
        for p in small:
            place = min(range(d), key=lambda i: (more[i], i))
            more[place] *= p
        modes += more
    return sorted(modes, reverse=True) or [1]


def side(k: list[int], R: int, M: int) -> tuple[list[int], list[int]]:
    r = [1] + [min(R, prod(k[:i]), M * prod(k[i:])) for i in range(1, len(k))] + [M]
    while len(k) > 1:
        savings = {
            i: (r[i - 1] * k[i - 1] + k[i] * r[i + 1]) * r[i] - r[i - 1] * k[i - 1] * k[i] * r[i + 1]
            for i in range(1, len(k))
        }
        if max(savings.values()) < 0:
            break
        i = min(i for i, saving in savings.items() if saving == max(savings.values()))
        k, r = [*k[: i - 1], k[i - 1] * k[i], *k[i + 1 :]], [*r[:i], *r[i + 1 :]]
    return k, r


@settings(deadline=None, max_examples=200)
@given(
    st.integers(1, 20000),
    st.integers(1, 20000),
    st.integers(1, 80),
    st.integers(1, 64),
    st.sampled_from(("delta", "rep")),
)
def test_the_page_says_what_is_stored(out: int, width: int, R: int, lora_rank: int, order: str) -> None:
    method = load("loretta")
    config = method.config_type(order=order, lora_rank=lora_rank)
    found = [(spec.rows, spec.width) for spec in method.layout(Site(out, width), R, config)]
    m, n = modes_of(out), modes_of(width)
    M = min(lora_rank, out, width, *((R,) if order == "delta" else (R * m[-1], R * n[-1])))
    expected = []
    for modes in (m, n):
        k, r = side(modes, R, M)
        expected += [(r[i], r[i - 1] * k[i - 1]) for i in range(1, len(k) + 1)]
    assert found == expected
    largest = min(lora_rank, out, width)
    bonds = [min(prod(k[:i]), largest * prod(k[i:])) for k in (m, n) for i in range(1, len(k))]
    assert method.max_rank(Site(out, width), config) == max([largest, *bonds])
