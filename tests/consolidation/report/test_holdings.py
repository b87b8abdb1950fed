from consolidation.report.holdings import ByteRow, byte_rows, holdings
from tests.consolidation.report.manifests import manifest


def test_each_expert_is_told_by_its_slot_and_what_is_added_to_it() -> None:
    shared = ("s/dense", ())
    made = manifest(
        {
            "one": [
                [
                    shared,
                    ("p/packed-4-32", ()),
                    ("a/dense", ()),
                    ("b/packed-8-32", ()),
                    ("s/dense", ("rank-8",)),
                    ("s/dense", ("packed-2-32",)),
                    ("p/packed-4-32", ("rank-16", "packed-1-32")),
                    ("p/packed-4-32", ("packed-1-32", "rank-1@down_proj")),
                ]
            ],
            "two": [[shared, ("p/packed-4-32", ())]],
        }
    )
    (row,) = holdings(made, "one")
    assert [(held.look.name, held.label) for held in row] == [
        ("shared slot", "16"),
        ("shared slot, packed", "4"),
        ("own slot", "16"),
        ("own slot, packed", "8"),
        ("slot + low rank", "16+r8"),
        ("slot + k-bit difference", "16+2"),
        ("slot + low rank and k-bit difference", "4+r16+1"),
        ("slot + k-bit difference and low rank", "4+1+r1d"),
    ]
    (other,) = holdings(made, "two")
    assert [(held.look.name, held.label) for held in other] == [
        ("shared slot", "16"),
        ("shared slot, packed", "4"),
    ]


def test_rows_of_bytes_add_up_to_the_release_s() -> None:
    made = manifest(
        {
            "one": [[("s/dense", ()), ("p/packed-4-32", ("rank-8",))]] * 2,
            "two": [[("s/dense", ("packed-1-32",)), ("q/packed-4-32", ("packed-2-16", "rank-2"))]]
            * 2,
        }
    )
    rows = byte_rows(made)
    assert [(row.what, row.count) for row in rows] == [
        ("slots, bfloat16", 2),
        ("slots, 4 bits in groups of 32", 4),
        ("residuals, signs in groups of 32", 2),
        ("residuals, 2 bits in groups of 16", 2),
        ("residuals, rank 2", 2),
        ("residuals, rank 8", 2),
        ("maps", 2),
    ]
    assert sum(row.num_bytes for row in rows) == made.expert_bytes_after


def test_a_file_that_several_parts_share_counts_once() -> None:
    made = manifest({"one": [[("s/dense", ())]]})
    again = made.model_copy(update={"layers": made.layers * 2})
    assert byte_rows(again)[0] == ByteRow("slots, bfloat16", 1, made.layers[0].slots[0].bytes)
