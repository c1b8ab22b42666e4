"""The folder layout: a labels table with scans, sequences and patterns."""

import datetime
import sys
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.trees import only, table, touch
from smile_pipe.pipeline.datasets import find_samples
from smile_pipe.pipeline.datasets.adapter import SampleSource, ScanFiles
from smile_pipe.shards.errors import UsageError


def meshes(root) -> dict[str, list[str]]:
    """The meshes of each sample by its key."""
    return {sample.key: [scan.mesh for scan in sample.frames] for sample in find_samples(root, "folder").samples}


def refused(root, text: str) -> str:
    """The message with which a table is rejected."""
    with pytest.raises(UsageError) as error:
        find_samples(table(root, text), "folder")
    assert "labels.csv" in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


class TestScans:
    def test_row_is_a_sample(self, tmp_path):
        table(
            tmp_path,
            "path,subject,expression,level,texture,landmarks,age,site,AU12,au_06\n"
            "anna/smile.one.ply,anna,Happy,2,anna/smile.png,anna/smile.lm3,31,Köln,0.8,\n",
        )
        assert only(tmp_path, "folder") == SampleSource(
            key="anna-smile-one",
            subject="anna",
            expression="HA",
            level=2,
            frames=(ScanFiles("anna/smile.one.ply", "anna/smile.png", "anna/smile.lm3"),),
            action_units={"AU12": 0.8},
            labels={"age": "31", "site": "Köln"},
            label_files=("labels.csv",),
        )

    def test_three_columns_are_required(self, tmp_path):
        table(tmp_path, "expression,path,subject\nSU,a.obj,s\n")
        scan = (ScanFiles("a.obj"),)
        assert only(tmp_path) == SampleSource("a", "s", "SU", None, scan, label_files=("labels.csv",))

    @pytest.mark.parametrize(
        ("word", "code"),
        [
            ("HA", "HA"),
            ("ha", "HA"),
            (" Joy ", "HA"),
            ("angry", "AN"),
            ("Neutral", "NE"),
            ("Contempt", "contempt"),
            ("surprised; Happy", "HA;SU"),
            ("wonder;SU;surprise;awe;", "SU;awe;wonder"),
        ],
    )
    def test_expressions_may_be_codes_or_words_or_several(self, tmp_path, word, code):
        table(tmp_path, f"path,subject,expression\na.obj,s,{word}\n")
        assert only(tmp_path).expression == code

    @pytest.mark.parametrize(("written", "level"), [("3", 3), ("3.0", 3), (" 2 ", 2), ("", None), ("0", None)])
    def test_level_is_an_integer_or_empty(self, tmp_path, written, level):
        table(tmp_path, f"path,subject,expression,level\na.obj,s,HA,{written}\n")
        assert only(tmp_path).level == level

    @pytest.mark.parametrize(
        ("up", "axes", "found"),
        [
            ("z", "", "x,z,-y"),
            ("", "x -y z", "x,-y,z"),
            ("", "", ""),
            ("-y", "", "x,-y,-z"),
            ("", '"x,-y,z"', "x,-y,z"),
        ],
    )
    def test_a_scan_may_have_axes_of_its_own(self, tmp_path, up, axes, found):
        table(tmp_path, f"path,subject,expression,Up,axes\na.obj,s,HA,{up},{axes}\n")
        assert (only(tmp_path).frames[0].axes, only(tmp_path).labels) == (found, {})

    @pytest.mark.parametrize(
        ("row", "problem"),
        [
            ("a.obj,s,HA,z,x z -y,", "line 2: both up and axes are set; use one of them"),
            ("a.obj,s,HA,top,,", "line 2: 'top' is not axes; write those that point to the subject's left"),
            ("a.obj,s,HA,z,,q\nb.obj,s,HA,y,,q", "line 3: axes differs from the first row of the sequence 'q'"),
        ],
    )
    def test_invalid_axes_are_rejected(self, tmp_path, row, problem):
        assert problem in refused(tmp_path, f"path,subject,expression,up,axes,sequence\n{row}\n")

    @pytest.mark.parametrize("level", ["high", "1.5", "-1", "²", "9" * 5000])
    def test_invalid_level_is_rejected_with_its_line(self, tmp_path, level):
        problem = refused(tmp_path, f"path,subject,expression,level\na.obj,s,HA,1\n\nb.obj,s,HA,{level}\n")
        assert f"line 4: invalid level '{level[:40]}'; use a whole number" in problem

    @pytest.mark.parametrize("empty", ["", " ", "   "])
    def test_empty_texture_cell_means_none(self, tmp_path, empty):
        touch(tmp_path, "a.obj", "a.png")
        table(tmp_path, f"path,subject,expression,texture,landmarks\na.obj,s,HA,{empty},{empty}\n")
        assert only(tmp_path).paths == ("a.obj",)

    def test_without_columns_files_next_to_the_mesh_are_used(self, tmp_path):
        touch(tmp_path, "x/a.obj", "x/a.JPG", "x/a_lmk68.txt", "x/b.obj", "a.png")
        table(tmp_path, "path,subject,expression\nx/a.obj,s,HA\nx/b.obj,s,SA\n")
        assert [sample.paths for sample in find_samples(tmp_path, "auto").samples] == [
            ("x/a.obj", "x/a.JPG", "x/a_lmk68.txt"),
            ("x/b.obj",),
        ]

    def test_short_row_is_padded_and_empty_cells_at_its_end_are_ignored(self, tmp_path):
        table(tmp_path, "path,subject,expression,texture,age,\na.obj,s,HA\nb.obj,s,HA,b.png,31,, ,\n")
        a, b = find_samples(tmp_path, "auto").samples
        assert (a.paths, a.labels) == (("a.obj",), {"age": ""})
        assert (b.paths, b.labels) == (("b.obj", "b.png"), {"age": "31"})

    def test_cell_with_an_unquoted_comma_is_rejected(self, tmp_path):
        problem = refused(tmp_path, 'path,subject,expression,age\n"a.obj",s,HA,31\nb.obj,s,HA,31,5\n')
        assert "line 3: 5 cells for 4 columns (path, subject, expression, age); quote a cell" in problem

    def test_known_columns_are_recognised_in_any_case(self, tmp_path):
        columns = "Path,SUBJECT, Expression ,Level,Texture,Sequence,Frame,Age"
        table(tmp_path, f"{columns}\nb.obj,s,HA,3,b.png,q,2,31\na.obj,s,HA,3,,q,1,31\n")
        sample = only(tmp_path)
        assert (sample.level, sample.labels) == (3, {"Age": "31"})
        assert sample.frames == (ScanFiles("a.obj"), ScanFiles("b.obj", "b.png"))

    @pytest.mark.parametrize(("columns", "name"), [("age,age", "age"), ("level,Level", "level"), ("age, age", "age")])
    def test_column_that_occurs_twice_is_rejected(self, tmp_path, columns, name):
        problem = refused(tmp_path, f"path,subject,expression,{columns}\na.obj,s,HA,1,2\n")
        assert f"2 columns are called {name}; rename or remove" in problem

    def test_scan_in_two_rows_is_rejected_with_both_lines(self, tmp_path):
        problem = refused(tmp_path, "path,subject,expression\na.obj,s,HA\nb.obj,s,HA\na.obj,s,SA\n")
        assert problem.endswith("line 4: 'a.obj' is also in line 2; remove one")

    @pytest.mark.parametrize(
        ("written", "path"), [("./a//b.obj", "a/b.obj"), (r"a\b.obj", "a/b.obj"), (" a/b.obj ", "a/b.obj")]
    )
    def test_paths_are_normalized(self, tmp_path, written, path):
        table(tmp_path, f"path,subject,expression,texture\n{written},s,HA,{written}\n")
        assert only(tmp_path).paths == (path,) and only(tmp_path).frames[0].texture == path


class TestSequences:
    HEADER = "path,subject,expression,sequence,frame\n"

    def test_directory_path_is_a_sequence(self, tmp_path):
        touch(tmp_path, *(f"anna/wow/{name}" for name in ("f10.obj", "f9.obj", "f9.png", "deeper/f1.obj", "._f1.obj")))
        table(tmp_path, "path,subject,expression\nanna/wow,anna,SU\n")
        sample = only(tmp_path)
        assert (sample.key, sample.frame_rate) == ("anna-wow", 25.0)
        assert sample.frames == (ScanFiles("anna/wow/f9.obj", "anna/wow/f9.png"), ScanFiles("anna/wow/f10.obj"))

    def test_directory_of_the_table_can_be_a_sequence(self, tmp_path):
        touch(tmp_path, "2.obj", "1.obj", "x/3.obj")
        assert meshes(table(tmp_path, "path,subject,expression\n.,s,HA\n")) == {"-": ["1.obj", "2.obj"]}

    def test_rows_are_sorted_by_frame(self, tmp_path):
        rows = "a.obj,s,HA,laugh,10\nb.obj,s,HA,laugh,2\nc.obj,s,HA,laugh,9\nd.obj,s,SA,weep,1\ne.obj,s,SA,,\n"
        assert meshes(table(tmp_path, self.HEADER + rows)) == {
            "laugh": ["b.obj", "c.obj", "a.obj"],
            "weep": ["d.obj"],
            "e": ["e.obj"],
        }

    def test_rows_without_frame_are_in_natural_order(self, tmp_path):
        late = f"x{'9' * 5000}.obj"
        names = (late, "x10.obj", "x9.obj", "x1.obj", "x09b.obj", "x0.obj", "x.obj")
        table(tmp_path, self.HEADER + "".join(f"{name},s,HA,laugh,\n" for name in names))
        assert meshes(tmp_path) == {
            "laugh": ["x.obj", "x0.obj", "x1.obj", "x9.obj", "x09b.obj", "x10.obj", late],
        }

    @pytest.mark.parametrize(
        ("names", "numbers"),
        [
            (("f_1.obj", "f_2.obj", "f_3.obj"), ()),
            (("take2_0100.obj", "take2_0110.obj", "take2_0105.obj"), (0, 5, 10)),
            (("1a1.obj", "2a2.obj", "3a5.obj"), ()),
            (("a1.obj", "b5.obj", "c.obj"), ()),
            (("1.obj", "5.obj", "01.ply"), ()),
            (("1.obj", f"{10**20}.obj"), ()),
        ],
    )
    def test_numbers_are_those_of_the_names_if_one_number_differs(self, tmp_path, names, numbers):
        touch(tmp_path, *(f"m/{name}" for name in names))
        for rows in ("path,subject,expression\nm,s,HA\n", "glob,sequence,subject,expression\nm/*,q,s,HA\n"):
            table(tmp_path, rows)
            assert only(tmp_path).numbers == numbers

    def test_missing_frames_leave_gaps(self, tmp_path):
        table(tmp_path, self.HEADER + "a.obj,s,HA,q,5\nb.obj,s,HA,q,3\nc.obj,s,HA,q,60\n")
        sample = only(tmp_path)
        assert ([scan.mesh for scan in sample.frames], sample.numbers) == (["b.obj", "a.obj", "c.obj"], (0, 2, 57))

    def test_sequences_have_a_frame_rate_and_scans_have_none(self, tmp_path):
        table(
            touch(tmp_path, "m/1.obj"), "path,subject,expression,frame_rate\nm,s,HA,59.94\nb.obj,s,HA,60\nc.obj,s,HA,\n"
        )
        assert [sample.frame_rate for sample in find_samples(tmp_path, "folder").samples] == [None, None, 59.94]

    def test_varying_labels_are_empty_and_action_units_are_averaged(self, tmp_path):
        table(
            tmp_path,
            "path,subject,expression,sequence,time,site,AU1,AU 2\n"
            "a.obj,s,HA,laugh,0.1,Köln,0,\nb.obj,s,HA,laugh,0.2,Köln,1,0.25\n",
        )
        sample = only(tmp_path)
        assert (sample.labels, sample.action_units) == ({"time": "", "site": "Köln"}, {"AU1": 0.5, "AU2": 0.25})

    @pytest.mark.parametrize(
        ("rows", "problem"),
        [
            ("a.obj,s,HA,q,1\nb.obj,s,HA,q,\n", "line 3: missing frame number in the sequence 'q'"),
            ("a.obj,s,HA,q,1\nb.obj,s,HA,q,1.0\n", "duplicate frame 1 in the sequence 'q'"),
            ("a.obj,s,HA,q,\na.obj,s,HA,q,\n", "duplicate mesh in the sequence 'q'"),
            ("a.obj,s,HA,q,1\nb.obj,t,HA,q,2\n", "line 3: subject differs from the first row"),
            ("a.obj,s,HA,q,1\nb.obj,s,SA,q,2\n", "line 3: expression differs from the first row"),
            ("a.obj,s,HA,q,first\n", "line 2: invalid frame 'first'; use a number"),
            ("a.obj,s,HA,q,nan\n", "line 2: invalid frame 'nan'; use a number"),
            ("a.obj,s,HA,q,2.5\n", "line 2: invalid frame '2.5'; use a whole number"),
            ("m,s,HA,q,1\n", "line 2: one frame number for 2 meshes"),
            ("deep,s,HA,,\n", "line 2: the folder 'deep' holds no mesh itself"),
        ],
    )
    def test_invalid_sequence_is_rejected(self, tmp_path, rows, problem):
        touch(tmp_path, "m/1.obj", "m/2.obj", "deep/er/1.obj")
        assert problem in refused(tmp_path, self.HEADER + rows)


class TestGlobs:
    def test_glob_gives_one_sample_per_file(self, tmp_path):
        touch(tmp_path, *(f"anna/{name}" for name in ("1.obj", "10.ply", "x.obj", "1.png", "sub/2.obj")), "bert/1.obj")
        table(tmp_path, "glob,subject,expression\nanna/*.obj,anna,HA\n")
        assert meshes(tmp_path) == {"anna-1": ["anna/1.obj"], "anna-x": ["anna/x.obj"]}
        assert find_samples(tmp_path, "auto").samples[0].paths == ("anna/1.obj", "anna/1.png")

    def test_glob_with_sequence_gives_one_sample(self, tmp_path):
        touch(tmp_path, *(f"anna/take-{n}/mesh.obj" for n in (1, 2, 10)))
        table(tmp_path, "glob,path,sequence,subject,expression\nanna/take-*/*.obj,,anna smiles,anna,HA\n")
        assert meshes(tmp_path) == {"anna-smiles": [f"anna/take-{n}/mesh.obj" for n in (1, 2, 10)]}

    @pytest.mark.parametrize(
        ("pattern", "found"),
        [
            ("**/*.obj", {"a.obj", "x/b.obj", "x/y/c.obj", "x/y/d1.obj", "x [1]/e.obj"}),
            ("**", {"a.obj", "x/b.obj", "x/y/c.obj", "x/y/d1.obj", "x [1]/e.obj", "x/f.ply"}),
            ("x/**/*.obj", {"x/b.obj", "x/y/c.obj", "x/y/d1.obj"}),
            ("x/**/y/**/c.obj", {"x/y/c.obj"}),
            ("*/*.ply", {"x/f.ply"}),
            ("x/y/[c-d]?.obj", {"x/y/d1.obj"}),
            ("x [[]1]/*", {"x [1]/e.obj"}),
            ("*.obj", {"a.obj"}),
            (".*/*.obj", {".cache/g.obj"}),
        ],
    )
    def test_star_matches_a_name_and_double_star_folders(self, tmp_path, pattern, found):
        touch(tmp_path, "a.obj", "x/b.obj", "x/y/c.obj", "x/y/d1.obj", "x [1]/e.obj", "x/f.ply", "x/y/notes.txt")
        touch(tmp_path, ".cache/g.obj", "x/._b.obj")
        table(tmp_path, f"glob,subject,expression\n{pattern},s,HA\n")
        assert {path for paths in meshes(tmp_path).values() for path in paths} == found

    def test_pattern_of_many_stars_is_fast(self, tmp_path):
        touch(tmp_path, "/".join("a" * 60) + "/x.obj")
        assert "no mesh matches" in refused(tmp_path, f"glob,subject,expression\n{'**/a/' * 30}y.obj,s,HA\n")

    @pytest.mark.parametrize(
        ("row", "problem"),
        [
            (",nothing/*.obj", "line 2: no mesh matches the glob 'nothing/*.obj'"),
            ("a.obj,*.obj", "line 2: both path and glob are set"),
            (",../*.obj", "line 2: '../*.obj' is outside the data directory"),
        ],
    )
    def test_invalid_glob_is_rejected(self, tmp_path, row, problem):
        assert problem in refused(touch(tmp_path, "a.obj"), f"path,glob,subject,expression\n{row},s,HA\n")


class TestActionUnits:
    @pytest.mark.parametrize("column", ["AU12", "au_12", "Au 12", "au012"])
    def test_action_unit_column_names(self, tmp_path, column):
        table(tmp_path, f"path,subject,expression,{column}\na.obj,s,HA,1\n")
        assert (only(tmp_path).action_units, only(tmp_path).labels) == ({"AU12": 1.0}, {})

    @pytest.mark.parametrize("column", ["AU12_r", "xAU12", "AU", "gau1"])
    def test_other_columns_are_labels(self, tmp_path, column):
        table(tmp_path, f"path,subject,expression,{column}\na.obj,s,HA,4.5\n")
        assert (only(tmp_path).action_units, only(tmp_path).labels) == (None, {column: "4.5"})

    @pytest.mark.parametrize("value", ["9", "-0.1", "B", "nan"])
    def test_value_outside_0_to_1_is_rejected(self, tmp_path, value):
        problem = refused(tmp_path, f"path,subject,expression,AU1\na.obj,s,HA,{value}\n")
        assert f"line 2: invalid AU1 '{value}'; use a number from 0 to 1; leave an action unit empty" in problem

    def test_two_columns_for_one_unit_are_rejected(self, tmp_path):
        problem = refused(tmp_path, "path,subject,expression,AU1,au_01\na.obj,s,HA,1,0\n")
        assert "two columns for AU1, one is au_01" in problem


class TestTables:
    @pytest.mark.parametrize("column", ["path", "texture", "landmarks"])
    @pytest.mark.parametrize(
        "path", ["../a.obj", "/etc/passwd", "a/../../b.obj", r"..\a.obj", r"\etc\passwd", " ../a.obj", "a\0.obj"]
    )
    def test_path_outside_the_directory_is_rejected(self, tmp_path, column, path):
        row = {"path": "a.obj", "subject": "s", "expression": "HA", "texture": "", "landmarks": "", column: path}
        problem = refused(tmp_path, ",".join(row) + "\n" + ",".join(row.values()) + "\n")
        assert "line 2: " in problem and "is outside the data directory" in problem

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "path,subject,expression\n",
            "path,subject\na.obj,s\n",
            "glob,subject\n*.obj,s\n",
            "path;subject;expression\na.obj;s;HA\n",
            "a.obj,s,HA\nb.obj,s,HA\n",
        ],
    )
    def test_table_without_columns_or_rows_is_rejected(self, tmp_path, text):
        problem = refused(tmp_path, text)
        header, _, rows = text.partition("\n")
        if rows:
            assert "missing columns; path (or glob), subject and expression are required" in problem
            assert problem.endswith(f"found: {', '.join(header.split(','))}")
        else:
            assert "no rows" in problem

    @pytest.mark.parametrize("row", [",s,HA", "a.obj,,HA", "a.obj,s,", "a.obj,s", "a.obj, ,HA", "a.obj,s,;"])
    def test_row_without_required_values_is_rejected(self, tmp_path, row):
        problem = refused(tmp_path, f"path,subject,expression\n{row}\n")
        assert "line 2: missing value; path (or glob), subject and expression are required" in problem

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    @pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
    def test_encodings_and_line_ends_of_spreadsheets(self, tmp_path, encoding, line_end):
        text = "path,subject,expression\na.obj,Zoë,HA\n".replace("\n", line_end)
        (tmp_path / "labels.csv").write_bytes(text.encode(encoding))
        assert only(tmp_path).subject == "Zoë"

    @pytest.mark.parametrize("name", ["labels.csv", "labels.parquet"])
    def test_what_is_not_a_table_is_named(self, tmp_path, name):
        for text, what in (
            ("version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
            ("<html>", "an HTML page"),
        ):
            (tmp_path / name).write_text(text)
            with pytest.raises(UsageError, match=f"{name}: is {what}"):
                find_samples(tmp_path, "auto")

    def test_other_encodings_are_rejected(self, tmp_path):
        (tmp_path / "labels.csv").write_bytes("path,subject,expression\na.obj,Zoë,HA\n".encode("latin-1"))
        with pytest.raises(UsageError, match="cannot be read as a CSV table"):
            find_samples(tmp_path, "auto")

    def test_parquet_gives_the_same_rows(self, tmp_path):
        columns = {
            "path": ["a.obj", "b.obj"],
            "subject": [7, 8],
            "expression": ["happy", "sad"],
            "level": [2.0, None],
            "AU12": [0.5, float("nan")],
            "day": [datetime.date(2020, 1, 2), None],
        }
        pq.write_table(pa.table(columns), tmp_path / "labels.parquet")
        a, b = find_samples(tmp_path, "auto").samples
        assert (a.subject, a.level, a.action_units, a.labels) == ("7", 2, {"AU12": 0.5}, {"day": "2020-01-02"})
        assert (b.subject, b.level, b.action_units, b.labels) == ("8", None, None, {"day": ""})
        assert a.label_files == ("labels.parquet",)

    def test_integers_with_gaps_are_the_same_in_both_tables(self, tmp_path):
        columns = {"level": [3.0, None], "subject": [1.0, 2.0], "age": [31.0, None], "weight": [70.0, 70.5]}
        columns |= {"path": ["1.0.obj", "2.0.obj"], "expression": ["HA", "SA"]}
        pq.write_table(pa.table(columns), tmp_path / "labels.parquet")
        from_parquet = find_samples(tmp_path, "auto").samples
        (tmp_path / "labels.parquet").unlink()
        rows = zip(*columns.values(), strict=True)
        # The first column has the row numbers of pandas.
        lines = [
            ",".join(["", *columns]),
            *(",".join(["0", *("" if c is None else str(c) for c in row)]) for row in rows),
        ]
        table(tmp_path, "\n".join(lines))
        from_csv = find_samples(tmp_path, "auto").samples
        assert [sample.labels["age"] for sample in from_csv] == ["31", ""]
        assert [(s.subject, s.level, s.labels["age"], s.frames) for s in from_csv] == [
            (s.subject, s.level, s.labels["age"], s.frames) for s in from_parquet
        ]

    def test_error_in_parquet_has_the_row_number(self, tmp_path):
        columns = {"path": ["a.obj", "../b.obj"], "subject": ["s", "s"], "expression": ["HA", "HA"]}
        pq.write_table(pa.table(columns), tmp_path / "labels.parquet")
        with pytest.raises(UsageError, match=r"labels\.parquet, row 2: '\.\./b\.obj' is outside"):
            find_samples(tmp_path, "auto")

    def test_invalid_parquet_is_rejected(self, tmp_path):
        (tmp_path / "labels.parquet").write_bytes(b"PAR1" + b"\0" * 40 + b"PAR1")
        with pytest.raises(UsageError, match=r"labels\.parquet: cannot be read as a PARQUET table"):
            find_samples(tmp_path, "auto")

    def test_small_parquet_takes_bounded_memory(self, tmp_path, monkeypatch):
        monkeypatch.setattr("smile_pipe.pipeline.datasets.labels_table.MAX_BYTES", 1 << 20)
        rows = 5000
        columns = {"path": ["x" * 1000] * rows, "subject": ["s"] * rows, "expression": ["HA"] * rows}
        pq.write_table(pa.table(columns), tmp_path / "labels.parquet", compression="zstd")
        assert (tmp_path / "labels.parquet").stat().st_size < 1 << 16
        with pytest.raises(UsageError, match=r"labels\.parquet: table too large: over"):
            find_samples(tmp_path, "auto")

    def test_dictionary_values_count_at_each_use(self, tmp_path, monkeypatch):
        monkeypatch.setattr("smile_pipe.pipeline.datasets.labels_table.MAX_BYTES", 1 << 20)
        words = pa.DictionaryArray.from_arrays(pa.array([0, None] * 1000), ["x" * 2000])
        columns = {"path": ["a.obj"] * 2000, "subject": words, "expression": ["HA"] * 2000}
        pq.write_table(pa.table(columns), tmp_path / "labels.parquet")
        with pytest.raises(UsageError, match=r"labels\.parquet: table too large: over"):
            find_samples(tmp_path, "auto")

    def test_parquet_categories_are_decoded(self, tmp_path):
        people = pa.array(["a", "b", "a"]).dictionary_encode()
        columns = {"path": ["1.obj", "2.obj", "3.obj"], "subject": people, "expression": ["HA", "SA", "NE"]}
        pq.write_table(pa.table(columns), tmp_path / "labels.parquet")
        touch(tmp_path, "1.obj", "2.obj", "3.obj")
        assert [sample.subject for sample in find_samples(tmp_path, "auto").samples] == ["a", "b", "a"]

    @pytest.mark.parametrize("value", [[None] * 100_000, {"a": None}])
    def test_nested_parquet_columns_are_rejected(self, tmp_path, value):
        columns = {"path": ["a.obj"], "subject": ["s"], "expression": ["HA"], "more": [value]}
        pq.write_table(pa.table(columns), tmp_path / "labels.parquet")
        with pytest.raises(UsageError, match=r"unsupported column more: it holds lists or records"):
            find_samples(tmp_path, "auto")

    @pytest.mark.parametrize("suffix", ["csv", "parquet"])
    def test_empty_cells_are_counted_before_allocation(self, tmp_path, suffix, monkeypatch):
        monkeypatch.setattr("smile_pipe.pipeline.datasets.labels_table.MAX_CELLS", 20_000)
        path, columns = tmp_path / f"labels.{suffix}", [f"c{number}" for number in range(2000)]
        if suffix == "csv":
            path.write_text(",".join(columns) + "\n" + "a\n" * 2000)
        else:
            pq.write_table(pa.table({name: pa.nulls(2000) for name in columns}), path)
        assert path.stat().st_size < 1 << 20
        tracemalloc.start()
        with pytest.raises(UsageError, match=rf"labels\.{suffix}: too many cells: over 20,000; remove columns"):
            find_samples(tmp_path, "auto")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 16 << 20

    @pytest.mark.parametrize("suffix", ["csv", "parquet"])
    def test_table_at_the_cell_limit_is_read(self, tmp_path, suffix, monkeypatch):
        monkeypatch.setattr("smile_pipe.pipeline.datasets.labels_table.MAX_CELLS", 6)
        columns = {"path": ["a.obj", "b.obj"], "subject": ["s", "s"], "expression": ["HA", "SA"]}
        if suffix == "csv":
            table(tmp_path, "path,subject,expression\na.obj,s,HA\nb.obj,s,SA\n")
        else:
            pq.write_table(pa.table(columns), tmp_path / "labels.parquet")
        assert meshes(tmp_path) == {"a": ["a.obj"], "b": ["b.obj"]}

    def test_too_large_table_is_not_opened(self, tmp_path, monkeypatch):
        monkeypatch.setattr("smile_pipe.pipeline.datasets.labels_table.MAX_BYTES", 10)
        monkeypatch.setattr("csv.DictReader", lambda file: sys.exit("opened"))
        assert "table too large: over" in refused(tmp_path, "path,subject,expression\na.obj,s,HA\n")

    def test_two_tables_are_rejected(self, tmp_path):
        touch(tmp_path, "labels.csv", "labels.parquet")
        with pytest.raises(UsageError, match=r"several labels tables: labels\.csv and labels\.parquet; remove one"):
            find_samples(tmp_path, "auto")
