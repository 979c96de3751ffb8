"""Old files stay readable: every frozen file gives the arrays that it gave when it was written, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import factorq as fq
from factorq.artifact import FORMAT_VERSION
from factorq.codecs import Encoded
from factorq.named import known

FOLDER = Path(__file__).parent / "fixtures"
FILES = sorted(FOLDER.glob("v*/*.safetensors"))


def kinds(encoded: Encoded) -> set[str]:
    inner = getattr(encoded, "inner", None)  # a codec, or the description of one whose codes are entropy-coded
    return {encoded.id} | (kinds(inner) if isinstance(inner, Encoded) else {inner["id"]} if inner else set())


def keeps(config: object, old: object) -> bool:
    """Whether a configuration says all that an older one said; settings that came later have their defaults."""
    if isinstance(old, dict) and isinstance(config, dict):
        return all(keeps(config.get(key), value) for key, value in old.items())
    if isinstance(old, list | tuple) and isinstance(config, list | tuple):
        return len(config) == len(old) and all(map(keeps, config, old))
    return config == old


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_frozen_file(path: Path) -> None:
    loaded = fq.load(path)
    factorizations = {name: F for name, F in loaded.items() if isinstance(F, fq.Factorization)}
    assert factorizations
    for name, F in factorizations.items():
        expected = loaded[f"expected.{name}"]
        dense = F.to_dense()
        assert (dense.shape, dense.dtype) == (expected.shape, expected.dtype), name
        for role, factor in F.encoded.items():
            decoded = factor.decode()
            frozen = loaded[f"expected.{name}/{role}"]
            assert (decoded.dtype, decoded.shape, decoded.tobytes()) == (frozen.dtype, frozen.shape, frozen.tobytes())
        if len(F.encoded) == 1:
            assert dense.tobytes() == expected.tobytes(), name
        else:  # the order of the sums in a product is up to the BLAS at hand
            unit = float(np.finfo(dense.dtype).eps) if dense.dtype.kind == "f" else 2.0**-7
            scale = np.abs(expected.astype(np.float64)).max()
            np.testing.assert_allclose(
                dense.astype(np.float64), expected.astype(np.float64), rtol=0, atol=16 * unit * scale, err_msg=name
            )
        if F.method_config["id"] != "elsewhere":
            assert keeps(F.method.config(), F.method_config), name
    for name in ("float16", "bfloat16", "float32", "float64"):
        if name in loaded:
            np.testing.assert_array_equal(loaded[name].astype(np.float64), [[0, 1, 2], [3, 4, 5]])
            assert loaded[name].dtype.name == name


def test_every_codec_and_method_is_frozen() -> None:
    everything = [F for p in FILES for F in fq.load(p).values() if isinstance(F, fq.Factorization)]
    assert {k for F in everything for e in F.encoded.values() for k in kinds(e)} == set(known("codecs"))
    assert {F.method_config["id"] for F in everything} - {"elsewhere"} == set(known("methods"))
    assert any(p.parent.name == f"v{FORMAT_VERSION}" for p in FILES)


def test_saving_again_keeps_every_byte(tmp_path: Path) -> None:
    for path in FOLDER.glob(f"v{FORMAT_VERSION}/*.safetensors"):
        fq.save(tmp_path / "again", fq.load(path))
        assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_frozen_files_are_small() -> None:
    assert sum(p.stat().st_size for p in FILES) < 600_000
