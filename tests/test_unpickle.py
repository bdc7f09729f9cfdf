import io
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offramp.data.unpickle import load_plain
from offramp.errors import DataError
from published import python2_pickle


def load(data: bytes) -> dict[str, Any]:
    return load_plain(io.BytesIO(data), "batch", "get it anew")


def refusal(data: bytes) -> str:
    with pytest.raises(DataError) as caught:
        load(data)
    message = str(caught.value)
    assert message.startswith("batch: ")
    assert message.endswith("; get it anew")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("kind", ["u1", "<i8", ">i4", "<f4", ">f8", "b1"])
def test_arrays_of_python_2_come_back_as_they_were(kind: str) -> None:
    array = np.arange(300).reshape(20, 15).astype(kind)
    found = load(python2_pickle({"data": array}))["data"]
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


def test_plain_values_of_python_2_come_back_with_readable_keys() -> None:
    found = load(python2_pickle({"names": ["cat", "caf\xe9"], "count": 3, "pair": (1, 2), "long": "x" * 300}))
    assert found == {"names": [b"cat", "caf\xe9".encode()], "count": 3, "pair": (1, 2), "long": b"x" * 300}


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_arrays_numbers_and_bytes_of_python_3_come_back_as_they_were(protocol: int) -> None:
    value = {
        b"data": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
        "none": np.empty((0, 4), np.uint8),
        "text": ["a", b"\xff\x00", b"", None, 1.5, True],
        "number": np.float32(1.25),
    }
    found = load(pickle.dumps(value, protocol))
    assert list(found) == ["data", "columns", "none", "text", "number"]
    for name in ("data", "columns", "none"):
        expected = value[b"data" if name == "data" else name]
        assert isinstance(expected, np.ndarray)
        assert found[name].dtype == expected.dtype
        assert np.array_equal(found[name], expected)
        assert found[name].shape == expected.shape
    assert (found["text"], found["number"]) == (value["text"], 1.25)


@pytest.mark.parametrize("core", ["core", "_core"])
def test_numpy_of_before_and_after_its_modules_were_renamed_is_read(core: str) -> None:
    data = python2_pickle({"data": np.arange(3)}).replace(b"numpy.core.", b"numpy.%s." % core.encode())
    assert load(data)["data"].tolist() == [0, 1, 2]


class Harmful:
    def __reduce__(self) -> Any:
        return os.system, ("touch harm",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_a_command_is_refused_and_runs_nothing(
    protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal(pickle.dumps({"data": Harmful()}, protocol))
    assert f"wants to load '{os.system.__module__}.system', and only arrays and plain values are read" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        b"__builtin__\neval", b"builtins\ngetattr", b"builtins\nbytearray", b"numpy\nload", b"numpy\nfromfile",
        b"numpy.core.multiarray\nfromfile", b"numpy._core.multiarray\narray", b"numpy\nmatrix", b"_codecs\ndecode",
        b"copy_reg\n_reconstructor", b"numpy\nndarray.tofile", b"pickle\nloads",
    ],
)  # fmt: skip
def test_every_other_name_is_refused(name: bytes) -> None:
    assert f"wants to load '{name.decode().replace(chr(10), '.')}'" in refusal(b"\x80\x02c" + name + b"\n.")


def test_references_out_of_the_file_are_refused() -> None:
    for data in (b"Poutside\n.", b"\x80\x02U\x07outsideQ."):
        assert "refers to something outside the file" in refusal(data)


def dtype(code: bytes, state: bytes = b"") -> bytes:
    """Opcodes that make a type, and change it by ``state``."""
    return b"cnumpy\ndtype\n(U" + bytes([len(code)]) + code + b"K\x00K\x01tR" + state


def array(kind: bytes, shape: bytes, data: bytes) -> bytes:
    """A dictionary with one array whose description can be anything."""
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    return b"\x80\x02}U\x04data" + empty + b"(K\x01" + shape + kind + b"\x89U" + bytes([len(data)]) + data + b"tbs."


def test_the_forged_arrays_of_these_tests_are_read_when_they_are_right() -> None:
    assert load(array(dtype(b"u1"), b"K\x02\x85", b"\x05\x06"))["data"].tolist() == [5, 6]


@pytest.mark.parametrize("code", [b"O8", b"O", b"V8", b"S8", b"U2", b"M8", b"u3", b"f16", b"f8,f8", b"(2,)f8"])
def test_types_that_could_hold_addresses_or_anything_but_numbers_are_refused(code: bytes) -> None:
    assert "cannot be read as a pickle of arrays (ValueError)" in refusal(array(dtype(code), b"K\x01\x85", b"12345678"))


@pytest.mark.parametrize("shape", [b"K\x03\x85", b"J\xff\xff\xff\xffJ\xfe\xff\xff\xff\x86", b"J\xff\xff\xff\x7f\x85"])
def test_arrays_of_another_size_than_their_bytes_are_refused(shape: bytes) -> None:
    assert "(ValueError)" in refusal(array(dtype(b"u1"), shape, b"\x05\x06"))


def test_a_type_gets_nothing_but_its_byte_order_from_the_file() -> None:
    forged = b"(K\x03U\x01>NU\x01a" + b"N" + struct.pack("<ci", b"J", 64) + b"K\x01K?tb"
    found = load(array(dtype(b"u2", forged), b"K\x01\x85", b"\x01\x02"))["data"]
    assert (found.dtype, found.tolist()) == (np.dtype(">u2"), [258])


def test_a_pickle_cannot_change_what_it_is_given() -> None:
    overwrite = b"\x80\x02cnumpy\ndtype\n(N}U\x04makeK\x01stb."
    assert "(TypeError)" in refusal(overwrite)
    assert load(array(dtype(b"u1"), b"K\x02\x85", b"\x05\x06"))["data"].tolist() == [5, 6]


def test_text_is_not_unpacked_by_the_codec_a_pickle_names() -> None:
    assert "(ValueError)" in refusal(b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00zlitR.")


@pytest.mark.parametrize("data", [b"", b"\x80\x02", b"\x80\x63.", b"no pickle at all", b"\x80\x02NN", b"\x80\x02}R."])
def test_what_is_no_pickle_is_refused_in_one_line(data: bytes) -> None:
    assert "cannot be read as a pickle of arrays" in refusal(data)


def test_a_pickle_that_was_cut_is_refused() -> None:
    whole = python2_pickle({"labels": [1, 2], "data": np.arange(9)})
    for length in range(len(whole)):
        assert "cannot be read as a pickle of arrays" in refusal(whole[:length])


def test_anything_but_a_dictionary_is_refused() -> None:
    assert "holds a list, wanted a dictionary" in refusal(python2_pickle([1, 2]))
