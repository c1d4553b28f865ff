"""Row numbers: which rows the data name, and their places among them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.plans.tables import renumbered, row_numbers

_ids = st.lists(st.integers(0, 1 << 30), max_size=20)


@given(_ids, _ids, _ids, st.sampled_from([np.int64, np.int32]))
def test_a_renumbered_id_is_the_place_of_its_row(
    some: list[int], others: list[int], more: list[int], dtype: type[np.signedinteger]
) -> None:
    first, second = np.array(some, dtype=dtype), np.array(others, dtype=dtype).reshape(1, -1)
    rows = row_numbers([first, second, np.array(more, dtype=np.int64)])
    assert rows.dtype == np.int64
    assert rows.tolist() == sorted({*some, *others, *more})
    for ids in (first, second):
        places = renumbered(ids, rows)
        assert (places.dtype, places.shape) == (ids.dtype, ids.shape)
        np.testing.assert_array_equal(rows[places], ids)


@pytest.mark.parametrize("missing", [-1, 0, 4, 9])
def test_a_row_that_is_not_there_is_named(missing: int) -> None:
    rows = np.array([1, 3, 7])
    with pytest.raises(ValueError, match=f"row {missing} is not among the 3 rows"):
        renumbered(np.array([3, missing, 8]), rows)
    with pytest.raises(ValueError, match="row 3 is not among the 0 rows"):
        renumbered(np.array([3]), row_numbers([]))
