"""A parity row measured again is compared with the committed one, field by field."""

import parity
import rows


def test_a_committed_row_is_its_own_and_another_differs(results):
    row = {"model": "vit", "method": "edgevit", "bits": 6, "images": 4, "codes": 10, "sums": 3}
    assert parity.differences(row) == ["there is no such row"]
    rows.add_row("parity", row)
    assert parity.differences(row) == []
    assert parity.differences({**row, "sums": 4}) == ["sums: 4, not 3"]
    assert parity.differences({**row, "bits": 8}) == ["there is no such row"]


def test_every_committed_row_is_exact():
    committed = rows.read_rows("parity")
    assert committed
    for row in committed:
        assert row["exact_layers"] == row["layers"]
        assert row["wrong_codes"] == row["wrong_sums"] == row["wrong_outputs"] == "0"
