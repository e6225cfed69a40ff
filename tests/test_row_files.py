"""Files as people have them are read whole, or refused in one line that says where and why."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import pytest

from scalequest.config import ConfigError
from scalequest.records import read_inputs, read_rows

QUESTIONS = ["What is 2 + 3?", 'She said "5,\n6".', "½ of\u2028x; a\tb | c", " $\\frac{1}{2}$ "]
ROWS = [{"question": question, "answer": str(number)} for number, question in enumerate(QUESTIONS)]


def table(delimiter: str, ending: str = "\n") -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, ["question", "answer"], delimiter=delimiter, lineterminator=ending)
    writer.writeheader()
    writer.writerows(ROWS)
    return out.getvalue().encode()


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t"), ("A.CSV", ",")])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_table_holds_what_was_written(
    name: str, delimiter: str, ending: str, mark: bytes, tmp_path: Path
) -> None:
    data = mark + table(delimiter, ending)
    (tmp_path / name).write_bytes(data)
    assert read_rows(tmp_path / name) == ROWS
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(data))
    assert read_rows(tmp_path / f"{name}.gz") == ROWS


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_text_is_a_question_per_line(ending: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(b"\xef\xbb\xbf" + ending.join(["One?", "", "  Two\u2028?  ", "\t", "Three?"]).encode())
    assert [row["question"] for row in read_inputs([str(path)], "question")] == [
        "One?",
        "Two\u2028?",
        "Three?",
    ]
    assert read_inputs([str(path)], "query")[2] == {"id": "mine-00000002", "query": "Three?"}


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROWS),
        json.dumps({"version": 2, "tags": ["a"], "empty": [], "data": ROWS}, indent=2),
        "".join(json.dumps(row) + "\n" for row in ROWS),  # as many data sets name their JSON lines
    ],
)
def test_json_of_every_shape(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("\ufeff" + content)
    assert read_rows(tmp_path / "a.json") == ROWS
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(content.encode()))
    assert read_rows(tmp_path / "a.json.gz") == ROWS


def test_the_index_that_pandas_writes_has_no_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",question,\n0,One?,x\n")
    assert read_rows(tmp_path / "a.csv") == [{"column_1": "0", "question": "One?", "column_3": "x"}]


def test_an_empty_cell_is_null_and_a_blank_line_no_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('question, level\nOne?,\n\n"Two?",3\n')
    assert read_rows(tmp_path / "a.csv") == [
        {"question": "One?", "level": None},
        {"question": "Two?", "level": "3"},
    ]
    (tmp_path / "b.csv").write_text("id,question\n1,One?\n,Two?\n3,\n")
    with pytest.raises(ConfigError, match=r"b\.csv: row 3: no 'question' \(it has id\)"):
        read_inputs([str(tmp_path / "b.csv")], "question")
    rows = read_inputs([f"{tmp_path / 'b.csv'}[:2]"], "question")
    assert [row["id"] for row in rows] == ["1", "b-00000001"]


def test_a_long_cell_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"question,n\n{'x' * 1_000_000},1\n")
    assert len(read_rows(tmp_path / "a.csv")[0]["question"]) == 1_000_000


HOSTILE = {
    "ragged, short": ("a.csv", b"question,answer\nOne?,1\nTwo?\n", "line 3: 1 cells under a header of 2"),
    "ragged, long": ("a.csv", b"question\nOne, two?\n", "line 2: 2 cells under a header of 1; .*quotation"),
    "ragged after quoted newlines": ("a.csv", b'a,b\n"1\n2",3\n"4\n5"\n', "line 4: 1 cells"),
    "ragged, tabs": ("a.tsv", b"a\tb\n1\t2\t3\n", "line 2: 3 cells .*contain tabs"),
    "empty": ("a.csv", b"", "line 1: expected a header"),
    "blank": ("a.tsv", b"\n\n", "line 1: expected a header"),
    "header only": ("a.csv", b"question,answer\n", "contains no rows"),
    "empty text": ("a.txt", b" \n\n", "contains no rows"),
    "empty lines": ("a.jsonl", b"", "contains no rows"),
    "empty list": ("a.json", b"[]", "contains no rows"),
    "semicolons": (
        "a.csv",
        b"question;answer\nOne?;1\n",
        "line 1: .*commas.*'question;answer' has semicolons",
    ),
    "tabs": ("a.csv", b"question\tanswer\nOne?\t1\n", r"has tabs; name the file \.tsv"),
    "commas": ("a.tsv", b"question,answer\nOne?,1\n", "has commas; save it with tabs"),
    "duplicate": ("a.csv", b"question,answer,question\n1,2,3\n", "duplicate column name 'question'"),
    "duplicate but for spaces": ("a.csv", b"question, question\n1,2\n", "duplicate column name 'question'"),
    "an open quotation mark": ("a.csv", b'question,n\nOne?,1\n"Two?,2\nThree?,3\n', "line 3: .*left open"),
    "text after a quotation mark": ("a.csv", b'question,n\n"One" two?,1\n', "line 2: .*quotation mark"),
    "a huge cell": ("a.csv", b'question\n"' + b"x" * (17 << 20) + b'"\n', "line 2: .*field limit"),
    "NUL": ("a.csv", b"question\nOne?\nT\x00o?\n", "line 3: contains a NUL byte"),
    "NUL in text": ("a.txt", b"One?\nT\x00o?\n", "line 2: contains a NUL byte"),
    "NUL in lines": ("a.jsonl", b'{"question": "a\x00b"}\n', "line 1: not JSON"),
    "UTF-16": ("a.csv", "question\nOne?\n".encode("utf-16"), "line 1: .*UTF-8"),
    "UTF-16 text": ("a.txt", "One?\n".encode("utf-16-le"), "line 1: .*UTF-8"),
    "Latin-1": ("a.csv", "question\nOne?\nOù?\n".encode("latin-1"), "line 3: not UTF-8"),
    "not gzipped": ("a.csv.gz", b"question\nOne?\n", "unreadable: Not a gzipped file"),
    "cut short": ("a.txt.gz", gzip.compress(b"One?\n" * 9_000)[:-9], "unreadable: "),
    "no list": ("a.json", b'{"question": "One?", "n": [1]}', "has none; it has question, n"),
    "two lists": ("a.json", b'{"train": [{"a": 1}], "test": [{"a": 2}]}', "has several: train, test"),
    "a list of several types": ("a.json", b'[{"question": "One?"}, "Two?"]', "row 2: expected an object"),
    "lines of several types": ("a.jsonl", b'{"question": "One?"}\n["Two?"]\n', "line 2: expected an object"),
    "a number in JSON": ("a.json", b"5", "expected a list of objects, got int"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_one_line(case: str, tmp_path: Path) -> None:
    name, content, said = HOSTILE[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=rf"{name}: {said}|{name}: .*{said}") as caught:
        read_rows(tmp_path / name)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 400
