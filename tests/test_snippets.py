"""The Python blocks of README and docs run as they are shown, and print what is shown below them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from factorq import named

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    "README.md",
    "docs/index.md",
    "docs/tutorial.md",
    "docs/tutorial-torch.md",
    "docs/tutorial-jax.md",
    "docs/howto/choose-a-method.md",
    "docs/howto/compress-a-checkpoint.md",
    "docs/explanation/quantization.md",
    "docs/explanation/quantized-sparse.md",
    "docs/explanation/cp.md",
    "docs/explanation/xor.md",
    "docs/explanation/products.md",
    "docs/howto/write-a-method-or-codec.md",
    "docs/howto/use-in-a-layer.md",
    "docs/howto/embed-in-a-framework.md",
)
# Beside what factorq itself needs:
NEEDS = {
    "docs/tutorial-torch.md": "torch",
    "docs/tutorial-jax.md": "jax",
    "docs/howto/use-in-a-layer.md": "torch",
    "docs/explanation/products.md": "torch",
}
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def numbers(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in NUMBER.findall(text)]


@pytest.mark.parametrize("page", PAGES)
def test_snippets(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    assert blocks
    if page in NEEDS:
        pytest.importorskip(NEEDS[page], reason=f"{NEEDS[page]} is not installed")
    monkeypatch.chdir(tmp_path)
    for kind in ("codecs", "constraints", "methods"):
        named.known(kind)  # all of ours are there, and stay
    monkeypatch.setattr(named, "_CLASSES", dict(named._CLASSES))  # a page's own methods are not to outlive it
    names: dict[str, object] = {}
    for code, shown in blocks:
        exec(compile(code, page, "exec", dont_inherit=True), names)
        printed = capsys.readouterr().out
        if shown:
            # Last digits depend on the machine's BLAS; words do not.
            assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown), page
            assert numbers(printed) == pytest.approx(numbers(shown), rel=0.03, abs=0.002), page
