"""What of a prediction is done, read while another process adds to it."""

from pathlib import Path

from rdd_deploy.prediction.journal import Journal, Row


def row(name: str) -> Row:
    return Row(frame=name, stamp="", height=1, width=1, shares=[1.0], look=0)


def test_rows_that_are_added_while_others_are_read(tmp_path: Path) -> None:
    writer, reader = Journal(tmp_path, 1), Journal(tmp_path, 1)
    for name in ("a", "b", "a"):
        writer.add(row(name))
    rows = reader.rows()
    first = next(rows)
    writer.add(row("c"))
    writer.close()
    assert [one.frame for one in (first, *rows)] == ["b", "a"]
