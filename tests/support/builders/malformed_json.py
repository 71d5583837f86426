"""Generates malformed JSON: a valid payload with some values removed or replaced."""

from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1.5, 2**31, 10**30, "", "nonsense", "0", "\x00", "<@0>", "9" * 40, "1e9", "🙂" * 50]),
    st.sampled_from([[], {}, [[]], [None], [{}], {"id": None}, {"id": "x"}, [1, "2"], {"0": {"1": {"2": []}}}]),
    st.text(max_size=20).filter(lambda text: text.isprintable()),
)


def _places(value: object, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:  # Any: keys and indices
    """The paths to all values inside `value`."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, one in inside:
        found += [(*before, key), *_places(one, (*before, key))]
    return found


@st.composite
def broken(draw: st.DrawFn, payload: dict[str, Any]) -> dict[str, Any]:  # Any: JSON values
    """`payload` with one to four values removed or replaced."""
    made = deepcopy(payload)
    for _ in range(draw(st.integers(1, 4))):
        places = _places(made)
        if not places:
            break
        *way, last = draw(st.sampled_from(places))
        where: Any = made
        for key in way:
            where = where[key]
        if draw(st.booleans()):
            where[last] = deepcopy(draw(JUNK))  # later rounds change what is inside
        else:
            del where[last]
    return made
