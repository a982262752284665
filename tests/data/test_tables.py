"""Tables of any usual format, encoding and wording are read; their names find the files."""

import csv
import datetime
import json
import re

import numpy as np
import pandas as pd
import pytest

from roco_caption.core.errors import UserError
from roco_caption.data.cells import unescaped
from roco_caption.data.folder import list_rows
from roco_caption.data.names import match_files, without_extension
from roco_caption.data.tables import read_table


def read(folder, content, name="captions.csv", columns=""):
    """Return the images and captions of a table as a list of pairs, and the table."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    table = read_table(path, columns)
    names = [table.rows[table.roles[role][0]] for role in ("image", "caption")]
    return list(zip(*names, strict=True)), table


@pytest.mark.parametrize(
    ("text", "encoding", "said"),
    [
        ("Röntgen-Thorax: Ödem der Lunge, Größe 5 µm", "utf-8", "UTF-8"),
        ("Röntgen-Thorax: Ödem der Lunge, Größe 5 µm", "utf-8-sig", "UTF-8"),
        ("Röntgen-Thorax: Ödem der Lunge, Größe 5 µm", "utf-16", "utf-16"),
        ("Röntgen-Thorax: Ödem der Lunge, Größe 5 µm", "cp1252", "cp1252"),
        ("Radiographie pulmonaire : épanchement à gauche, cœur élargi", "cp1252", "cp1252"),
        ("Radiografía de tórax: señal en el lóbulo del niño", "latin-1", "cp1252"),
        ("Zdjęcie klatki piersiowej: płyn w jamie opłucnej, złamanie żebra", "cp1250", "cp1250"),
        ("Рентген грудной клетки: жидкость в плевральной полости", "cp1251", "cp1251"),
        ("胸部X線写真：右下肺野に浸潤影を認める", "cp932", "cp932"),
        ("Flexion of 30° ± 2, 3 × 4 µm, the patient’s “halo” – 5²", "cp1252", "cp1252"),
    ],
)
def test_captions_keep_their_letters_in_every_encoding(tmp_path, text, encoding, said):
    if said not in ("UTF-8", "utf-16") and "°" not in text:
        pytest.importorskip("chardet")
    content = f'name,caption\na.png,"{text}"\nb.png,plain\n'.encode(encoding)
    pairs, table = read(tmp_path, content)
    assert pairs == [("a.png", text), ("b.png", "plain")]
    assert f"encoding {said}" in table.how or (said, "cp1254" in table.how) == ("cp1252", True)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Akciğer grafisi: sağ plevral sıvı, kalp büyümüş", "cp1254"),
        ("Şüpheli gölge, İdrar yolları açık – “sağ” 5 cm", "cp1254"),
        ("Kırık ve çıkık", "cp1254"),
        ("Röntgenmynd af lungum: vökvi í fleiðruholi, hjarta stækkað, það er brot", "cp1252"),
        ("Brot á þumli", "cp1252"),
        ("Röntgen-Thorax: Größe 5 cm, Ödem der Lunge, Çelik übermäßig", "cp1252"),
    ],
)
def test_turkish_is_told_from_icelandic_and_german(tmp_path, text, encoding):
    pytest.importorskip("chardet")
    content = f'name,caption\na.png,"{text}"\n'.encode(encoding)
    assert read(tmp_path, content)[0] == [("a.png", text)]


MISSING = [
    "NaN",
    "nan",
    "N/A",
    "None",
    "null",
    "-",
    "#NAME?",
    "#REF!",
    "#N/A",
    " NULL ",
    "#VALUE!",
    "",
]


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.xlsx"])
def test_what_is_missing_is_the_same_in_every_format(tmp_path, name):
    captions = [*MISSING, "None of the ribs is broken.", "-5 HU", "n/a to the left"]
    frame = pd.DataFrame({"image": [f"{i}.png" for i in range(len(captions))], "caption": captions})
    if name == "a.xlsx":
        pytest.importorskip("openpyxl")
        frame.to_excel(tmp_path / name, index=False)
    elif name == "a.csv":
        frame.to_csv(tmp_path / name, index=False)
    else:
        frame.to_json(tmp_path / name, orient="records")
    table = read_table(tmp_path / name)
    assert table.rows.caption.tolist() == [""] * len(MISSING) + captions[len(MISSING) :]


def written(folder, records, name):
    """Write records as JSON or Excel, and return the file."""
    path = folder / name
    if path.suffix == ".xlsx":
        pytest.importorskip("openpyxl")
        pd.DataFrame(records).to_excel(path, index=False)
    else:
        path.write_text(json.dumps(records))
    return path


DAY = datetime.date(2024, 1, 2)


@pytest.mark.parametrize(
    ("value", "name", "shown"),
    [
        ({"en": "CT"}, "a.json", "{'en': 'CT'}"), ([{"raw": "CT"}], "a.json", "{'raw': 'CT'}"),
        (True, "a.json", "True"), (True, "a.xlsx", "True"), (DAY, "a.xlsx", "2024-01-02"),
        (12.5, "a.xlsx", "12.5"), (3, "a.json", "3"),
    ],
)  # fmt: skip
def test_a_caption_that_is_no_text_is_named(tmp_path, value, name, shown):
    records = [{"image": f"{i}.png", "caption": value} for i in range(3)]
    with pytest.raises(
        UserError, match=rf"'caption' has .*{re.escape(shown)}.* row {2 if 'xlsx' in name else 1}\b"
    ):
        read_table(written(tmp_path, records, name))
    records[0]["caption"] = "CT of the chest"
    table = read_table(written(tmp_path, records, name))
    assert table.rows.caption.tolist() == ["CT of the chest", "", ""]
    assert shown in str(table) and f"row {3 if 'xlsx' in name else 2}," in str(table)


@pytest.mark.parametrize(
    ("content", "columns", "unused"),
    [
        ("image,caption,caption\na,x,y\n", "", "['caption']"),
        ("image,findings,impression\na,x,y\n", "", "['impression']"),
        ("image,Impression,Report Text,text\na,x,y,z\n", "", "['Impression', 'text']"),
        ("image,findings,impression\na,x,y\n", "caption=impression", ""),
        ("image,caption,age,patient\na,x,7,8\n", "", ""),
    ],
)
def test_columns_of_captions_that_are_not_used_are_named(tmp_path, content, columns, unused):
    text = str(read(tmp_path, content, columns=columns)[1])
    assert unused in text and ("not used" in text) == bool(unused)


def test_the_second_of_two_columns_in_excel_is_named(tmp_path):
    pytest.importorskip("openpyxl")
    frame = pd.DataFrame([["a", "x", "y"]], columns=["image", "caption", "caption"])
    frame.to_excel(tmp_path / "a.xlsx", index=False)
    assert "not used: ['caption" in str(read_table(tmp_path / "a.xlsx"))


def test_one_foreign_line_does_not_spoil_a_table_in_utf8(tmp_path):
    rows = [f"{i}.png,Größe {i}\n".encode() for i in range(9)] + ["9.png,30°\n".encode("cp1252")]
    pairs, table = read(tmp_path, b"name,caption\n" + b"".join(rows))
    assert pairs[3] == ("3.png", "Größe 3") and pairs[9] == ("9.png", "30°")
    assert "1 lines cp1252" in table.how


@pytest.mark.parametrize(
    ("content", "pairs"),
    [
        ("id,name,caption\n1,a.png,X-ray, PA, no effusion\n", "a.png|X-ray, PA, no effusion"),
        ("name;caption\na.png;left; right; both\n", "a.png|left; right; both"),
        ("name\tcaption\na.png\tone\ttwo\n", "a.png|one\ttwo"),
        ('id,name,caption\n1,a.png,"quoted, and",more\n', "a.png|quoted, and,more"),
        ("name,caption,,\na.png,one,,\n", "a.png|one"),
        ("sep=;\r\nname;caption\r\na.png;one\r\n", "a.png|one"),
        ("Name, Caption \na.png, one\n", "a.png| one"),
        ("image_name| comment_number| comment\na.png| 0| A dog .\n", "a.png| A dog ."),
        ("FILE_NAME;Patient ID;Report\na.png;7;one, two\n", "a.png|one, two"),
        ('name,caption\na.png,"two\nlines"\n', "a.png|two\nlines"),
        ("caption,image\none,a.png\n", "a.png|one"),
        ("\tname\tcaption\n0\ta.png\tone\n", "a.png|one"),
        ("name,caption\ra.png,one\r", "a.png|one"),
        ('name,"caption"," of\nwhat"\na.png,one,x\n', "a.png|one"),
        ("image_path,label,caption\na.png,3,left, right\n\n", "a.png|left, right"),
        ("sep=\t\nFILE NAME\tFINDINGS\na.png\t5 µm; 3,5\n", "a.png|5 µm; 3,5"),
        ('"name", "caption"\n"a.png", "one, two"\n', "a.png|one, two"),
    ],
)  # fmt: skip
def test_separators_names_of_columns_and_unquoted_captions(tmp_path, content, pairs):
    assert read(tmp_path, content)[0] == [tuple(pairs.split("|", 1))]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("caption,name\nOne, two, three,a.png\nfine,b.png\n", 2),
        ("\n\nsep=,\ncaption,name\nOne, two, three,a.png\nfine,b.png\n", 5),
        ("name,caption,split\nb.png,fine,test\na.png,one, two,train\n", 3),
        ('name,caption,age\n"b.png","two\nlines",3\na.png,one, two,5\n', 4),
    ],
)
def test_a_line_that_does_not_fit_is_known_by_its_number(tmp_path, content, line):
    table = read(tmp_path, content)[1]
    assert sorted(table.misfits) == [0, line]


def with_stray_quotes(rows, form, header, stray):
    """Return a table's text; `form` has {name} and {caption}; rows in `stray` have a quote."""
    lines = [form.format(name=name, caption=f"Film {i} of {name}.") for i, name in rows]
    quoted = [form.format(name=name, caption=f'"Film {i} of {name}.') for i, name in rows]
    return "\n".join([header, *(quoted[i] if i in stray else lines[i] for i, _ in rows), ""])


@pytest.mark.parametrize("stray", [{2, 7}, {2}, {0, 1}, {1, 4, 5, 9}])
@pytest.mark.parametrize(
    ("header", "form", "name"),
    [
        ("image,caption", "{name},{caption}", "{}.png"),
        ("image\tcaption", "{name}\t{caption}", "{}.png"),
        ("caption;image", "{caption};{name}", "{}.jpg"),
        ("image,caption,patient", "{name},{caption},7", "ROCO_{:05}"),
        ("id|report", "{name}|{caption}", "{}"),
        ("image,text", "{name},{caption}", "0af{:05x}-77e1"),
    ],
)
def test_stray_quotes_swallow_no_rows(tmp_path, header, form, name, stray):
    rows = [(i, name.format(i + 1)) for i in range(12)]
    content = with_stray_quotes(rows, form, header, stray)
    if "caption;" in header and stray == {2}:
        content += '"Real\nbreak";13.jpg\n'
        rows_after = [("13.jpg", "Real\nbreak")]
    else:
        rows_after = []
    pairs, table = read(tmp_path, content)
    assert pairs == [(name, f"Film {i} of {name}.") for i, name in rows] + rows_after
    assert str(sorted(i + 2 for i in stray)) in table.how


@pytest.mark.parametrize(
    "caption",
    [
        "First paragraph.\nSecond, with a comma.",
        "Findings:\n1, heart normal\n2, no effusion",
        "3.png is older.\n\n4.png shows less.",
        "a\nb\nc",
    ],
)
@pytest.mark.parametrize("order", [("image", "caption"), ("caption", "image")])
@pytest.mark.parametrize("name", ["{}.png", "{}"])
def test_real_line_breaks_in_quotes_are_kept(tmp_path, caption, order, name):
    rows = pd.DataFrame({"image": [name.format(i) for i in range(1, 6)], "caption": caption})
    pairs, table = read(tmp_path, rows[list(order)].to_csv(index=False))
    assert pairs == list(zip(rows.image, rows.caption, strict=True))
    assert "quote" not in table.how


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (['1.png,"One, two,7', "2.png,x,8", '3.png,"Three,9'], 2),
        (["1.png,x,7", '2.png,"No end.', "More.", "3.png,y,8", '4.png,"Four",9'], 3),
        (["1.png,x,7", "2.png,y,8", '3.png,"Cut off'], 4),
    ],
)
def test_a_quote_that_cannot_be_closed_is_named_by_its_line(tmp_path, rows, line):
    content = "\n".join(["image,caption,age", *rows, ""])
    with pytest.raises(UserError, match=rf"captions.csv .*quote.*line {line}\b"):
        read(tmp_path, content)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"file": "a.png", "text": "one\\u2028"}\n\n{"file": 2, "text": "x"}\n'),
        ("a.json", '[{"image": "a.png", "caption": "one\\u2028"}, {"image": 2.0, "caption": "x"}]'),
        ("a.ndjson", '{"img": "a.png", "captions": ["one\\u2028"]}\n{"img": 2, "captions": ["x"]}'),
    ],
)  # fmt: skip
def test_json_lists_and_lines(tmp_path, name, content):
    assert read(tmp_path, content, name)[0] == [("a.png", "one\u2028"), ("2", "x")]


def test_half_a_surrogate_pair_is_left_out(tmp_path):
    pairs, _ = read(tmp_path, '{"image": "a", "caption": "x\\ud800y"}', "a.jsonl")
    assert pairs == [("a", "xy")]  # it could not be written later


def test_lists_of_captions_become_rows(tmp_path):
    content = json.dumps([{"image": "a", "caption": ["one", "two"]}, {"image": "b"}])
    assert read(tmp_path, content, "a.json")[0] == [("a", "one"), ("a", "two"), ("b", "")]


@pytest.mark.parametrize("numbers", [[1, 2], [1.0, 2.0]])
@pytest.mark.parametrize(("suffix", "package"), [("xlsx", "openpyxl"), ("parquet", "pyarrow")])
def test_spreadsheets_and_parquet_with_numbers_as_names(tmp_path, suffix, package, numbers):
    pytest.importorskip(package)
    frame = pd.DataFrame({"Image ID": numbers, "Caption": ["one", None]})
    path = tmp_path / f"a.{suffix}"
    if suffix == "xlsx":
        with pd.ExcelWriter(path) as book:
            pd.DataFrame({"about": ["this book"]}).to_excel(book, sheet_name="Readme")
            frame.to_excel(book, sheet_name="Data", index=False)
    else:
        frame.to_parquet(path)
    table = read_table(path)
    assert table.rows["Image ID"].tolist() == ["1", "2"]
    assert table.rows["Caption"].tolist() == ["one", ""]


@pytest.mark.parametrize("suffix", ["xlsx", "parquet"])
def test_a_missing_package_is_named(tmp_path, monkeypatch, suffix):
    def absent(*arguments, **options):
        raise ImportError("Missing optional dependency 'reader'.")

    monkeypatch.setattr(pd, "read_excel", absent)
    monkeypatch.setattr(pd, "read_parquet", absent)
    with pytest.raises(UserError, match=r"'reader'.*save it as a CSV"):
        read(tmp_path, b"x", f"a.{suffix}")


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ("image=scan, caption=befund", ""),
        (" Caption = Befund ,image= SCAN", ""),
        (
            "image=scan, caption=Report",
            r"no caption column 'Report'.*image=name, caption=befund",
        ),
        ("caption=befund, patient=who", r"no patient column 'who'"),
        ("bild=scan", r"columns \['scan', 'befund', 'name'\].*COLUMNS is 'bild=scan'"),
        ("image", "such as COLUMNS = 'image=name, caption=befund'"),
        ("image: scan; caption: befund", "such as COLUMNS = 'image=name, caption=befund'"),
        ("scan=image", r"pairs of image, caption, split, patient and a column"),
    ],
)
def test_columns_can_be_named(tmp_path, columns, says):
    content = "scan;befund;name\na.png;one, two;x\n"
    if says:
        with pytest.raises(UserError, match=says):
            read(tmp_path, content, columns=columns)
    else:
        assert read(tmp_path, content, columns=columns)[0] == [("a.png", "one, two")]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"", r"has the columns \[\]"),
        ("a.csv", b'name,caption\na,"never closed\nb,c\n', "a quote is never closed"),
        ("a.csv", b"a.png,one\nb.png,two\n", r"columns \['a.png', 'one'\] \(separator ','"),
        ("a.json", b'{"image": "a"', "is not a readable table"),
        ("a.json", b"[" * 99999, "is not a readable table"),
        ("a.json", b"[1, 2]", "its layout is not known"),
        ("a.json", '[{"image": "ä"}]'.encode("cp1252"), "is not a readable table"),
        ("a.xlsx", b"no zip", "is not a readable table"),
        ("a.parquet", b"PAR1", "is not a readable table"),
    ],
)
def test_what_is_no_table_is_named(tmp_path, name, content, says):
    with pytest.raises(UserError, match=rf"{name} .*({says})"):
        read(tmp_path, content, name)


TITLES = [["Radiology 2023 export"], ["Report", "A, B"], ["1", "2", "3"], ["x"]]


@pytest.mark.parametrize("titles", [TITLES[:1], TITLES[1:2], TITLES[:3], TITLES, [TITLES[0], []]])
@pytest.mark.parametrize("name", ["a.csv", "a.xlsx", "semicolons.csv"])
def test_a_header_below_a_title_is_found(tmp_path, titles, name):
    grid = [*titles, ["image", "caption", "age"], ["1.png", "One; two.", 7], ["", "Three.", 8]]
    if name == "a.xlsx":
        pytest.importorskip("openpyxl")
        pd.DataFrame(grid).to_excel(tmp_path / name, index=False, header=False)
    else:
        with open(tmp_path / name, "w", newline="") as file:
            csv.writer(file, delimiter=";" if "semi" in name else ",").writerows(grid)
    table = read_table(tmp_path / name)
    assert table.rows.values.tolist() == [["1.png", "One; two.", "7"], ["", "Three.", "8"]]
    line = len(titles) + 1
    assert f"NOTE: row {line} names the columns" in str(table)
    assert [place.split()[1] for place in table.places] == [str(line + 1), str(line + 2)]


@pytest.mark.parametrize(
    "content",
    ["1.png,CT of the chest\n2.png,MRI\n", "Export of 2023\nscan,words\n1.png,CT\n", "A\nB\n"],
)
def test_without_a_header_no_data_are_suggested_as_columns(tmp_path, content):
    with pytest.raises(UserError, match="first row must name the columns") as error:
        read(tmp_path, content)
    assert "such as" not in str(error.value)


@pytest.mark.parametrize("suffix", ["xls", "ods", "xlsb", "numbers"])
def test_spreadsheets_that_are_not_read_are_named(tmp_path, suffix):
    with pytest.raises(UserError, match=rf"a\.{suffix} .*\.{suffix} is not supported.*\.xlsx"):
        read(tmp_path, b"x", f"a.{suffix}")


@pytest.mark.parametrize(
    ("name", "files", "expected"),
    [
        ("a.png", ["a.png", "a.jpg"], "a.png"),
        ("a", ["a.png", "b.png"], "a.png"),
        ("a", ["a.png", "a.jpg"], "2"),
        ("A.PNG", ["a.png", "b.png"], "a.png"),
        ("a.png", ["A.PNG", "a.png"], "a.png"),
        ("images\\a.png", ["a.png"], "a.png"),
        ("images/a.png", ["x/images/a.png", "x/other/a.png"], "x/images/a.png"),
        ("./a.png", ["sub/a.png"], "sub/a.png"),
        ("a.png", ["a.png", "sub/a.png"], "a.png"),
        ("a.png", ["x/a.png", "y/a.png"], "2"),
        ("a.png", ["a.jpg"], "0"),
        ("a.jpg", ["a"], "a"),
        ("1.2.840.1", ["1.2.840.1", "1.2.840.2"], "1.2.840.1"),
        ("1.2.840.1.dcm", ["1.2.840.1", "1.2.840.2"], "1.2.840.1"),
        ("1.2.840.1", ["1.2.840.1.DCM", "1.2.840.1.1.DCM"], "1.2.840.1.DCM"),
        ("7", ["007.png", "008.png"], "007.png"),
        ("7.0", ["7.png"], "7.png"),
        ("7", ["7.png", "007.png"], "7.png"),
        ("Ro\u0308ntgen", ["R\u00f6ntgen.png"], "R\u00f6ntgen.png"),
        ("../../secret.jpg", ["a.jpg"], "0"),
        ("C:\\scans\\a.png", ["pictures/a.png"], "pictures/a.png"),
        ("", ["a.png"], "0"),
        (" a.png\n", ["a.png"], "a.png"),
    ],
)
def test_names_find_their_files(name, files, expected):
    [found] = match_files(pd.Series([name]), files)
    assert found == [expected] if not expected.isdigit() else len(found) == int(expected)


def test_a_name_of_one_folder_never_takes_the_file_of_another():
    names = pd.Series(["train/1.png", "test/1.png", "train/2.png"])
    found = match_files(names, ["test/1.png", "test/2.png"])
    assert found.tolist() == [[], ["test/1.png"], []]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("1.2.840.113619.2.55.1.1", "1.2.840.113619.2.55.1.1"), ("a.PNG", "a"), ("a.b.jpeg", "a.b"),
        ("scan.v2", "scan.v2"), ("x.dcm", "x"), ("png", "png"), (".png", ".png"),
    ],
)  # fmt: skip
def test_only_extensions_of_images_are_cut_off(name, stem):
    assert without_extension(name) == stem


def table(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "captions.csv"
    path.write_bytes(text.encode(encoding))
    return read_table(path)


def test_rs_row_names_are_no_images(tmp_path):
    found = table(
        tmp_path, '"image","caption"\n"1","0006.png","A mass."\n"2","0001.png","CT, axial."\n'
    )
    assert found.rows["image"].tolist() == ["0006.png", "0001.png"]
    assert found.rows["caption"].tolist() == ["A mass.", "CT, axial."]
    found = table(tmp_path, "image,caption\n1.png,A mass, left\n2.png,A hand, right\n")
    assert found.rows["caption"].tolist() == ["A mass, left", "A hand, right"]
    assert "2 captions have the separator without quotes" in found.how


def test_a_line_break_in_the_header_hides_no_column(tmp_path):
    text = 'image,"report\n(final)",patient,findings\n1.png,no,P1,"No, effusion"\n'
    found = table(tmp_path, text)
    assert found.roles["patient"] == ["patient"] and found.rows["findings"][0] == "No, effusion"
    assert "report (final)" in found.rows


@pytest.mark.parametrize(
    "captions",
    [["Rö-Thorax: kein Erguß", "Größe normal"], ["Non è presente", "Opacità", "Cuore nei limiti"]],
)
def test_few_umlauts_are_those_of_windows(tmp_path, captions):
    lines = [f"{i:04}.png;{captions[i % len(captions)]}" for i in range(12)]
    found = table(tmp_path, "\n".join(["image;caption", *lines]), "cp1252")
    assert found.rows["caption"][: len(captions)].tolist() == captions


def test_excels_escapes_are_no_text(tmp_path):
    path = tmp_path / "captions.xlsx"
    rows = {"image": ["1.png"], "caption": ["No effusion._x000D_\nNormal heart"]}
    pd.DataFrame(rows).to_excel(path, index=False)
    assert read_table(path).rows["caption"][0].split() == ["No", "effusion.", "Normal", "heart"]


def test_a_row_that_matches_does_not_hide_that_folders_are_anothers():
    names = pd.Series([f"export/{i:04}.png" for i in range(30)] + ["legend.png"])
    files = [f"img/{i:04}.png" for i in range(30)] + ["legend.png"]
    found = match_files(names, files)
    assert found[3] == ["img/0003.png"] and found[30] == ["legend.png"]


def test_row_names_of_r_are_left_out_even_where_images_have_no_extension(tmp_path):
    rows = [f'{i}\t"{7 * i % 11:04d}"\t"Film of {7 * i % 11}"' for i in range(1, 11)]
    pairs, _ = read(tmp_path, "\n".join(['"image"\t"caption"', *rows, ""]))
    assert pairs == [(f"{7 * i % 11:04d}", f"Film of {7 * i % 11}") for i in range(1, 11)]


@pytest.mark.parametrize(
    ("header", "row", "caption"),
    [
        ("id,caption,", "{},Chest {},", "Chest {}"), ("id,caption", "{},Chest {},", "Chest {}"),
        ("image;report;", "{};Chest {};", "Chest {}"),
        ("id,caption,split,", "{},Chest {},train,", "Chest {}"),
        ("id,caption", "{},Chest X-ray, view {}", "Chest X-ray, view {}"),
    ],
)  # fmt: skip
def test_numbered_images_are_no_row_names(tmp_path, header, row, caption):
    rows = [row.format(i, i) for i in range(1, 7)]
    pairs, table = read(tmp_path, "\n".join([header, *rows, ""]))
    assert pairs == [(str(i), caption.format(i)) for i in range(1, 7)]
    assert not table.misfits.any()


@pytest.mark.parametrize(
    ("row", "fits"),
    [("a.png,Lungs clear, no effusion,", False), ("a.png,one,7,", True),
     ("a.png,Lungs clear,", True),
     ('a.png,"Lungs clear, no effusion",', True), ("a.png,Lungs clear", True)],
)  # fmt: skip
def test_an_unquoted_comma_before_an_empty_cell_is_no_other_column(tmp_path, row, fits):
    table = read(tmp_path, f"image,caption,patient\nb.png,plain,7\n{row}\n")[1]
    assert list(table.misfits) == [0, 0 if fits else 3]


@pytest.mark.parametrize(
    ("content", "pairs"),
    [
        ('image\tcaption\np1\\01.png\tChest\np1\\02.png\tSj\\"ogren syndrome\n',
         [("p1\\01.png", "Chest"), ("p1\\02.png", 'Sj\\"ogren syndrome')]),
        ('image;caption;patient\n1.png;"Saved in C:\\img\\" ;P1\n',
         [("1.png", "Saved in C:\\img\\ ")]),
        ('"image","caption"\n"p1\\01.png","The \\"target\\" sign"\n"p1\\02.png","$\\alpha$"\n',
         [("p1\\01.png", 'The "target" sign'), ("p1\\02.png", "$\\alpha$")]),
        ('image,caption,patient\n1.png,"Henoch-Sch\\""onlein purpura, view 2",P2\n',
         [("1.png", 'Henoch-Sch\\"onlein purpura, view 2')]),
    ],
)  # fmt: skip
def test_other_backslashes_stay_beside_escaped_quotes(tmp_path, content, pairs):
    assert read(tmp_path, content)[0] == pairs


@pytest.mark.parametrize("ids", [range(1, 151), [7, 12345, 88, 3, 400, 51]])
def test_a_stray_quote_among_numbers_of_any_length_is_ignored(tmp_path, ids):
    rows = [f'{name},"Chest {name}' if i == 4 else f"{name},Chest {name}"
            for i, name in enumerate(ids)]  # fmt: skip
    pairs, table = read(tmp_path, "\n".join(["id,caption", *rows, ""]))
    assert pairs == [(str(name), f"Chest {name}") for name in ids]
    assert "stray quotes in lines [6] are ignored" in table.how


@pytest.mark.parametrize("cell", [{"width": 5}, {"$oid": "ab1"}])
def test_objects_in_a_column_do_not_hide_the_one_that_names_files(tmp_path, cell):
    rows = [{"image": cell, "file_name": "1.png", "caption": "one"}]
    assert read(tmp_path, json.dumps(rows), "a.json")[0] == [("1.png", "one")]


def test_only_lists_of_the_column_that_is_used_are_rows(tmp_path):
    rows = [{"image": "1.png", "images": ["1.png", "2.png"], "caption": "one"}]
    assert read(tmp_path, json.dumps(rows), "a.json")[0] == [("1.png", "one")]


def test_the_text_of_an_array_is_no_list(tmp_path):
    text = "['Chest 1.' 'No effusion.']"
    content = pd.DataFrame({"image": ["a"], "caption": [text]}).to_csv(index=False)
    assert read(tmp_path, content)[0] == [("a", text)]


def test_only_dicom_files_may_have_been_converted():
    found = match_files(pd.Series(["x/a.DCM", "b.jpg", "c"]), ["x/a.png", "b.png"])
    assert found.tolist() == [["x/a.png"], [], []]


def test_separators_at_the_end_of_every_line_are_no_misfit(tmp_path):
    table = read(tmp_path, "image,caption,patient\na.png,one,7,\nb.png,two,8,\n")[1]
    assert list(table.misfits) == [0, 0]


@pytest.mark.parametrize("text", [
    "Compared with the film of March\n12, 2019 at 10:30, no change.",
    "Compared with the film of March\n12, 2019 at 10:30, no change.\nNo effusion.",
])  # fmt: skip
def test_a_line_of_a_report_that_begins_with_a_number_is_no_row(tmp_path, text):
    names = [*map(str, range(50001, 50020))]
    captions = ["plain"] * 18 + [text]
    content = pd.DataFrame({"image": names, "caption": captions}).to_csv(index=False)
    assert read(tmp_path, content)[0] == [*zip(names, captions, strict=True)]


@pytest.mark.parametrize("last", ["", ",7"])
def test_quotes_after_a_backslash_are_quotes(tmp_path, last):
    content = f"image,caption{',patient' if last else ''}\n"
    content += f'a.png,"The \\"sail sign\\", no fracture"{last}\nb.png,"So \\"\\" called"{last}\n'
    pairs, table = read(tmp_path, content)
    assert pairs == [("a.png", 'The "sail sign", no fracture'), ("b.png", 'So "" called')]
    assert not table.misfits.any()


@pytest.mark.parametrize("text", ['Film in "C:\\scans\\"', "5 \\ 6"])
def test_backslashes_that_escape_nothing_stay(tmp_path, text):
    content = pd.DataFrame({"image": ["a.png"], "caption": [text]}).to_csv(index=False)
    assert read(tmp_path, content)[0] == [("a.png", text)]


def test_lists_that_were_written_as_text_are_lists(tmp_path):
    captions = [["Chest film.", "No effusion."], ['It\'s "fine".'], "[sic] plain", "['torn"]
    content = pd.DataFrame({"image": [*"abcd"], "caption": captions}).to_csv(index=False)
    assert read(tmp_path, content)[0] == [
        ("a", "Chest film."), ("a", "No effusion."), ("b", 'It\'s "fine".'), ("c", "[sic] plain"),
        ("d", "['torn"),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
def test_a_report_of_several_images_is_that_of_each(tmp_path, monkeypatch, kind):
    rows = pd.DataFrame({"image": [["a.png", "b.png"], ["c.png"]], "caption": ["one", "two"]})
    content = rows.to_csv(index=False) if kind == "csv" else rows.to_json(orient="records")
    arrays = rows.assign(image=rows.image.map(np.array))  # as Arrow returns lists
    monkeypatch.setattr(pd, "read_parquet", lambda path: arrays)
    pairs, _ = read(tmp_path, content, f"captions.{kind}")
    assert pairs == [("a.png", "one"), ("b.png", "one"), ("c.png", "two")]


@pytest.mark.parametrize("cell", [{"bytes": b"\\" * 10**6, "path": None}, b"\\" * 10**6, [[1], 2]])
def test_images_inside_a_table_are_refused_at_once(tmp_path, monkeypatch, cell):
    table = pd.DataFrame({"image": [cell] * 3, "caption": ["one"] * 3})
    monkeypatch.setattr(pd, "read_parquet", lambda path: table)
    with pytest.raises(UserError, match="images are in its column 'image'; save them") as error:
        read(tmp_path, b"", "train.parquet")
    assert len(str(error.value)) < 500


COCO = {
    "images": [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "b.png"}],
    "annotations": [{"image_id": 8, "caption": "two"}, {"image_id": 7, "caption": "one"},
                    {"image_id": 8, "caption": "three"}],
}  # fmt: skip
TWO = pd.DataFrame({"image": ["a.png", "b.png"], "caption": ["one", "two"]})


@pytest.mark.parametrize(
    ("content", "pairs"),
    [
        (json.dumps(COCO), "b.png|two a.png|one b.png|three"),
        (json.dumps({"a.png": "one", "b.png": ["two", "three"]}, indent=1),
         "a.png|one b.png|two b.png|three"),
        (TWO.to_json(), "a.png|one b.png|two"),
        (json.dumps(TWO.to_dict("list")), "a.png|one b.png|two"),
        (TWO.to_json(orient="records", lines=True), "a.png|one b.png|two"),
        (TWO[:1].to_json(orient="records", lines=True), "a.png|one"),
        ('{"image": "a.png", "caption": ["one", "two"]}', "a.png|one a.png|two"),
    ],
)  # fmt: skip
def test_every_usual_layout_of_json_is_read(tmp_path, content, pairs):
    expected = [tuple(pair.split("|")) for pair in pairs.split()]
    assert read(tmp_path, content, "captions.json")[0] == expected


@pytest.mark.parametrize("content", ["{}", '{"a": 1, "b": 2}', '{"a": {"b": "c"}}', '{"a": "b"'])
def test_other_json_is_refused(tmp_path, content):
    with pytest.raises(
        UserError, match=r"captions\.json (is not a readable table|has the columns)"
    ):
        read(tmp_path, content, "captions.json")


def test_an_error_lists_few_columns(tmp_path):
    content = ",".join(f"{i:06}" + "x" * 100 for i in range(1000)) + "\n"
    with pytest.raises(UserError, match=r"'000000x.*…") as error:
        read(tmp_path, content)
    assert len(str(error.value)) < 3000


@pytest.mark.parametrize(
    ("cell", "text"), [("s_x1000_y0.png", "s_x1000_y0.png"), ("a_x000D_\nb", "a\r\nb"),
                       ("a_x005F_x000A_", "a_x000A_"), ("a_x00E4_b", "a_x00E4_b")],
)  # fmt: skip
def test_of_excels_escapes_only_those_of_control_characters_are_undone(cell, text):
    assert unescaped(cell) == text


def test_no_column_of_patients_is_proposed_as_captions(tmp_path):
    path = tmp_path / "a.csv"
    rows = [f"scan{i}.png;Kein Erguss, keine Fraktur.;P{i}" for i in range(3)]
    path.write_text("\n".join(["Film;Freier Inhalt;PatientenID", *rows]), "utf-8")
    with pytest.raises(UserError, match="'image=Film, caption=Freier Inhalt'"):
        read_table(path)
    longer = (
        path.read_text("utf-8").replace("PatientenID", "Studie UID").replace(";P", ";1.2.840.1")
    )
    path.write_text(longer.replace("840.1", "840.113619.2.404.3.2818833.1.1.1.1.1"), "utf-8")
    with pytest.raises(UserError, match="'image=Film, caption=Freier Inhalt'"):
        read_table(path)
    path.write_text("Film;Freier Inhalt\n", "utf-8")  # no row
    with pytest.raises(UserError, match="but no image column"):
        read_table(path)
    path.write_text("\n".join(["Bilddatei;Befundtext;PatientenID", *rows]), "utf-8")
    assert read_table(path).roles == {
        "image": ["Bilddatei"], "caption": ["Befundtext"], "split": [], "patient": ["PatientenID"]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("texts", "encoding"),
    [
        (["Płyn w lewej jamie opłucnej.", "Złamanie kości promieniowej."], "cp1250"),
        (["Rentgen hrudníku: bez ložiskových změn, srdce nezvětšeno."], "cp1250"),
        (["Tüdőkben kóros árnyék nem látható, a szív nem nagyobb, légűr"], "cp1250"),
        (["Röntgen-Thorax: keine Ergüsse.", "Größe etwa 5 mm, unverändert."], "cp850"),
        (["Radiografía de tórax.", "Pequeño nódulo en el riñón."], "cp850"),
        (["Œdème, cœur élargi, épanchement à gauche, où"], "cp1252"),
        (["Opacità del lobo superiore, più a destra, così"], "cp1252"),
        (["Kopsuröntgen: ilma põletikuta, süda ei ole suurenenud, täheldatud"], "cp1252"),
        (["Pulmões sem alterações, coração aumentado, opacificação"], "cp1252"),
        (["Ectasia dell´aorta. Non è presente versamento. DLP 300 mGy·cm"], "cp1252"),
        (["Maladie de Müller, août 2020, diagnostic sûr. Réseau normal."], "cp1252"),
    ],
)
@pytest.mark.parametrize("times", [1, 20])
def test_letters_of_central_europe_and_of_dos_are_kept(tmp_path, texts, encoding, times):
    pytest.importorskip("chardet")
    written = [f"{i}.png;{text}" for i, text in enumerate(texts * times)]
    pairs, table = read(tmp_path, "\n".join(["image;caption", *written, ""]).encode(encoding))
    assert [text for _, text in pairs] == texts * times
    assert "(as in '" in table.how  # a person sees one word as it was read


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('image, caption, patient\na.png, "Chest, normal.", P1\n', "Chest, normal."),
        ('image,caption,patient\na.png, "Chest, normal.", P1\n', "Chest, normal."),
        ('image,caption\n"a.png,""Chest, normal."""\n', "Chest, normal."),
        ("image\tcaption\na.png\tFINDINGS:\\nChest.\\r\\nNormal.\n", "FINDINGS: Chest. Normal."),
        ("image,caption\na.png,<p>A &lt;5&nbsp;mm.<br/>Crohn&#39;s</p>\n", "A <5 mm. Crohn's"),
        ("image,caption\na.png,p <b 5 and R&D\n", "p <b 5 and R&D"),
        ("image,caption\na.png,Ratio a<b and c>d\n", "Ratio a<b and c>d"),
        ("image,caption\na.png,T<sub>1</sub>-weighted <b>L</b>eft\n", "T1-weighted Left"),
        ("image,caption\na.png,\\nu and \\theta stay\n", "\\nu and \\theta stay"),
        ('image;caption\na.png;"[""Chest."", null]"\n', "Chest."),
        ("image,description,conclusion\na.png,CHEST PA,No effusion.\n", "No effusion."),
        ("image,caption,report\na.png,,Normal chest.\n", "Normal chest."),
    ],
)  # fmt: skip
def test_captions_are_read_as_a_person_reads_them(tmp_path, content, text):
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "captions.csv").write_bytes(content.encode())
    rows = list_rows(read_table(tmp_path / "captions.csv"), tmp_path, ["a.png"])
    captions = rows.caption[rows.reason == ""].str.split().str.join(" ")
    assert captions.tolist() == [text]


@pytest.mark.parametrize("text", ["\\N", "NA", "n/a", ".", "--", "?", "…"])
def test_what_is_no_caption_is_left_out(tmp_path, text):
    content = f"image\tcaption\na.png\t{text}\nb.png\tNormal.\n"
    (tmp_path / "captions.tsv").write_text(content, "utf-8")
    rows = list_rows(read_table(tmp_path / "captions.tsv"), tmp_path, ["a.png", "b.png"])
    assert rows.reason.tolist() == ["no caption", ""]


def test_a_stray_quote_before_many_rows_is_repaired(tmp_path):
    rows = [f"ROCO_{i:05d}.jpg,Chest X-ray of patient number {i}, erect" for i in range(4000)]
    rows[1] = rows[1].replace("Chest", '"Chest')
    (tmp_path / "c.csv").write_text("\n".join(["image,caption", *rows, ""]))
    table = read_table(tmp_path / "c.csv")
    assert len(table.rows) == 4000 and "stray quotes in lines [3]" in table.how
