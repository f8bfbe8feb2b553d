"""MATLAB's files are read as scipy wrote them."""

import numpy as np
import pytest
from scipy.io import savemat

from wsol_ext.data import AnnotationError
from wsol_ext.data.matlab import read_mat


@pytest.mark.parametrize("compressed", [False, True])
def test_matlab_variables_are_those_that_scipy_wrote(tmp_path, compressed):
    path = tmp_path / "any.mat"
    cells = np.array(["one", "Ærø 鳥", "", "x" * 300], object)
    structs = np.array([(1.5, "a"), (np.array([1, 2, 3]), "bc")], [("n", object), ("t", object)])
    savemat(
        path,
        {
            "numbers": np.array([[1, 2], [3, -400]], np.int16),
            "small": np.uint8(7),
            "cells": cells[:, None],
            "structs": structs[None],
            "nothing": np.zeros((0, 0)),
            "line": "text",
        },
        do_compression=compressed,
    )
    assert read_mat(path, "numbers") == [1, 3, 2, -400]  # column after column
    assert read_mat(path, "small") == [7]
    assert read_mat(path, "cells") == cells.tolist()
    assert read_mat(path, "structs") == [{"n": 1.5, "t": "a"}, {"n": [1, 2, 3], "t": "bc"}]
    assert (read_mat(path, "nothing"), read_mat(path, "line")) == ([], ["text"])
    with pytest.raises(AnnotationError, match="has no variable other, it has numbers, small, "):
        read_mat(path, "other")
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(126) + b"IM" + b"\x89HDF")
    with pytest.raises(AnnotationError, match="it is of version 7.3; save it with -v7"):
        read_mat(path, "numbers")
    path.write_text("<html>")
    with pytest.raises(AnnotationError, match="it has not the header of versions 5 to 7"):
        read_mat(path, "numbers")
