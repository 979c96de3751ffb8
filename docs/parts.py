"""The tables and plots of the pages in docs/explanation, from what the benchmarks wrote.

A piece whose results are missing says so, and which benchmark writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
Reports = Mapping[str, Mapping[str, Any]]
Table = Callable[[str, Sequence[Row]], str]

AIM = 3  # stored bits at which methods are compared; codes of this width where the size follows from them
REFERENCE = "factorq trellis, 8 states"
SPARSE = "quantized_sparse"
SPARSITY = 0.9  # of the tables on masks
LAYERS = ("layer3.8.conv2.weight", "layer3.8.conv1.weight", "layer3.4.conv1.weight")  # those of the lowest size
HEADS = {
    "nominal_bits": "bits",
    "bits_per_weight": "stored bits",
    "relative_squared_error": "relative squared error",
    "gap_bits": "gap",
    "encode_mw_s": "encode",
    "decode_mw_s": "decode",
    "decompose_mw_s": "search",
}
COLOURS = {
    REFERENCE: "#009E73",
    "factorq trellis, 1 states": "#CC79A7",
    "factorq trellis, fixed rate, 4096 states, rotated": "#E69F00",
    "factorq vector quantization": "#8B6F47",
    "factorq scalar": "#0072B2",
    "HQQ, groups of 64": "#D55E00",
    "NNCodec, best mode": "#444444",
}


def write(reports: Reports, folder: Path, table: Table) -> None:
    """Write all pieces into ``folder``; ``table`` makes Markdown of a subject's rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.iterdir():
        stale.unlink()
    tables: dict[str, tuple[str, Callable[[Sequence[Row]], Sequence[Row]]]] = {
        "gaps": ("rate_distortion_gaps", at_aim),
        "saved": ("rate_distortion_saved", at_aim),
        "large": ("rate_distortion_large", large),
        "speeds": ("rate_distortion", speeds),
        "kmeans": ("vector_quantization", kmeans),
        "residual": ("vector_quantization", residual),
        "scores": ("networks_scores", list),
        "sparse_note": ("quantized_sparse", note),
        "sparse_palm": ("quantized_sparse", palm),
        "sparse_large": ("quantized_sparse", large_sparse),
        "sparse_means": ("quantized_sparse_means", sparse_means),
        "sparse_layers": ("quantized_sparse_layers", sparse_layers),
        "sparse_iterations": ("quantized_sparse_iterations", iterations),
        "sparse_pca": ("sparse_pca", sparse_pca),
        "cp_errors": ("cp", cp_errors),
        "cp_layers": ("cp", cp_layers),
        "cp_large": ("cp", cp_large),
        "cp_sweeps": ("cp_sweeps", cp_sweeps),
        "cp_memory": ("cp_memory", cp_memory),
        "cp_networks": ("cp_networks_scores", list),
        "xor_efficiency": ("xor_efficiency", xor_efficiency),
        "xor_real": ("xor_real", xor_real),
        "xor_formats": ("xor_formats", xor_formats),
        "xor_masks": ("xor_masks", xor_masks),
        "xor_encode": ("xor_encode", xor_encode),
        "xor_decode": ("xor_decode_large", xor_decode),
        "xor_alexnet": ("xor_alexnet", xor_alexnet),
        "products": ("products", products),
        "products_threads": ("products_threads", list),
        "accuracy_weights": ("accuracy", lambda rows: accuracy(rows, "weights")),
        "accuracy_norms": ("accuracy", lambda rows: accuracy(rows, "batch norm")),
        "accuracy_calibrated": ("accuracy", lambda rows: accuracy(rows, "calibrated", "calibrated, batch norm")),
        "accuracy_ratios": ("accuracy", accuracy_ratios),
        "accuracy_tuned": ("accuracy", accuracy_tuned),
        "adapters": ("adapters", list),
    }
    pieces = {}
    for name, (subject, choose) in tables.items():
        chosen = choose(reports[subject]["rows"]) if subject in reports else []
        pieces[name] = table(subject, chosen) if chosen else missing(subject)
    known = reports.get("rate_distortion")
    pieces["curves"] = curves(known["rows"], folder / "gaps.svg") if known else missing("rate_distortion")
    for name, text in pieces.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")


def missing(subject: str) -> str:
    """What stands where a benchmark has not been run."""
    return f"There are no such results of `{subject}` in this checkout: `make bench` writes them.\n"


def at_aim(rows: Sequence[Row]) -> list[Row]:
    """The rows at ``AIM`` bits, and those of methods that have no such setting."""
    there = {row["method"] for row in rows if row["nominal_bits"] == AIM}
    chosen = [row for row in rows if row["nominal_bits"] == AIM or row["method"] not in there]
    return [{HEADS.get(name, name): value for name, value in row.items()} for row in chosen]


def large(rows: Sequence[Row]) -> list[Row]:
    """The trellis on many Gaussian weights."""
    names = ("states", "bits_per_weight", "gap_bits", "encode_mw_s", "decode_mw_s", "decompose_mw_s")
    return [{HEADS.get(name, name): row.get(name) for name in names} for row in rows]


def speeds(rows: Sequence[Row]) -> list[Row]:
    """Million weights per second of each method, on Gaussian weights and on a network."""
    names = [name for name in dict.fromkeys(row["source"] for row in rows) if name not in ("gaussian", "laplace")]
    sources = ["gaussian", *names[:1]]
    lines: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["source"] in sources and row.get("nominal_bits") == AIM and "encode_mw_s" in row:
            line = lines.setdefault(row["method"], {"method": row["method"]})
            line |= {f"{row['source']}: {word}": row[f"{word}_mw_s"] for word in ("encode", "decode")}
    return list(lines.values())


def kmeans(rows: Sequence[Row]) -> list[Row]:
    """Times of k-means beside its peers."""
    names = ("points", "dim", "codewords", "method", "iterations", "seconds", "inertia_ratio", "time_ratio")
    return [{name: row.get(name) for name in names} for row in rows if row["problem"] == "kmeans"]


def residual(rows: Sequence[Row]) -> list[Row]:
    """Errors and times of residual codes beside their peers."""
    names = ("points", "method", "relative_squared_error", "seconds")
    return [{name: row.get(name) for name in names} for row in rows if row["problem"] == "residual"]


def columns(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """Some columns of the rows, by their headings; without those in which no row has anything."""
    filled = [name for name in names if any(row.get(name) is not None for row in rows)]
    return [{HEADS.get(name, name): row.get(name) for name in filled} for row in rows]


def note(rows: Sequence[Row]) -> list[Row]:
    """Small matrices: plain projected gradient and peers of the same size."""
    names = ("source", "rank", "sparsity", "method", "bits_per_weight", "relative_squared_error", "seconds")
    return columns([row for row in rows if row["problem"] == "note"], names)


def palm(rows: Sequence[Row]) -> list[Row]:
    """PALM and what stores no more."""
    names = ("method", "rank", "iterations", "bits_per_weight", "relative_error", "seconds", "time_ratio", "note")
    return columns([row for row in rows if row["problem"] == "palm"], names)


def large_sparse(rows: Sequence[Row]) -> list[Row]:
    """One large matrix."""
    names = ("source", "method", "bits_per_weight", "relative_error", "seconds", "wall_s", "peak_mib", "note")
    return columns([row for row in rows if row["problem"] == "large"], names)


def iterations(rows: Sequence[Row]) -> list[Row]:
    """What one more iteration costs."""
    return columns(rows, ("solver", "columns", "weights", "seconds_per_iteration", "ns_per_weight", "exponent"))


def sparse_means(rows: Sequence[Row]) -> list[Row]:
    """A line for each method, a column for each size: the mean error, and ours where only some layers have one."""
    whole = {row["target"]: row["layers"] for row in rows if row["method"] == SPARSE}
    lines: dict[str, dict[str, Any]] = {row["method"]: {"method": row["method"]} for row in rows}
    for target in sorted(whole):
        for row in rows:
            if row["target"] == target:
                some = row["layers"] != whole[target] and "ours" in row
                beside = f" ({row['ours']:.3f} on {row['layers']})" if some else ""
                lines[row["method"]][f"{target:g} bits"] = f"{row['relative_error']:.3f}{beside}"
        lines[SPARSE][f"{target:g} bits"] += f" on {whole[target]}"
    return list(lines.values())


def sparse_layers(rows: Sequence[Row]) -> list[Row]:
    """A line for each of three layers and method, a column for each size: the relative error."""
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if row["layer"] in LAYERS and row["network"].startswith("resnet56"):
            head = {"layer": row["layer"].removesuffix(".weight"), "method": row["method"]}
            line = lines.setdefault((row["layer"], row["method"]), head)
            line[f"{row['target']:g} bits"] = row.get("relative_error")
    return list(lines.values())


def sparse_pca(rows: Sequence[Row]) -> list[Row]:
    """scikit-learn's sparse PCAs, and ours at as many zeros."""
    names = ("data", "shape", "rank", "method", "zeros", "explained", "ours", "pca", "seconds", "ours_s", "time_ratio")
    return columns([row for row in rows if "Sparse" in row.get("method", "")], names)


CP_COLUMNS = ("bits", "method", "bits_per_weight", "relative_error", "error_ratio", "seconds", "time_ratio", "note")


def cp_errors(rows: Sequence[Row]) -> list[Row]:
    """Quantized CP of a planted tensor beside its peers."""
    return columns([row for row in rows if row["source"] == "planted" and row["shape"] == "64x64x9"], CP_COLUMNS)


def cp_layers(rows: Sequence[Row]) -> list[Row]:
    """A line for each trained layer and number of bits, a column for each method: the relative error."""
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        if ":" in row["source"] and "relative_error" in row:
            network, _, layer = row["source"].partition(":")
            key = row["source"], row["bits"]
            head = {"network": network.partition("_")[0], "layer": layer.rpartition(".")[0], "bits": row["bits"]}
            line = lines.setdefault(key, head)
            if row["method"] == "CP":
                line["stored bits"] = row["bits_per_weight"]
            line[row["method"]] = row["relative_error"]
    return list(lines.values())


def cp_large(rows: Sequence[Row]) -> list[Row]:
    """Larger tensors: seconds and memory."""
    names = ("source", "shape", "rank", *CP_COLUMNS[:4], "seconds", "wall_s", "before_mib", "peak_mib", "note")
    sizes = ("512x512x9", "256x256x256")
    return columns([row for row in rows if row["shape"] in sizes], names)


def cp_sweeps(rows: Sequence[Row]) -> list[Row]:
    """A sweep of real factors, and the errors after fifty of them, beside parafac."""
    names = ("shape", "rank", "sweep_s", "peer_sweep_s", "time_ratio", "relative_error", "plain_error", "peer_error")
    return columns(rows, (*names, "note"))


def cp_memory(rows: Sequence[Row]) -> list[Row]:
    """Peak memory beyond what was there before."""
    return columns(rows, ("shape", "rank", "method", "beyond_mib", "memory_ratio", "note"))


def xor_efficiency(rows: Sequence[Row]) -> list[Row]:
    """What a stream takes at two sparsities; slices at the factor that is their default."""
    chosen = [row for row in rows if row["sparsity"] in (0.7, SPARSITY) and "note" not in row["code"]]
    return columns(chosen, ("code", "sparsity", "efficiency", "note_efficiency", "total", "published", "note_total"))


def xor_real(rows: Sequence[Row]) -> list[Row]:
    """Under the masks of pruned networks, in order and shuffled."""
    chosen = [row for row in rows if row["sparsity"] == SPARSITY and row["threshold"] == "layer"]
    chosen = [row for row in chosen if not row["code"].startswith("Sequential")]
    return columns(chosen, ("network", "code", "efficiency", "total", "efficiency_permuted", "total_permuted"))


def xor_formats(rows: Sequence[Row]) -> list[Row]:
    """A row for each format, a column for each source, at one sparsity and one bit per kept weight."""
    chosen = [row for row in rows if (row["sparsity"], row["bits"], row["threshold"]) == (SPARSITY, 1, "layer")]
    known = {"source", "threshold", "sparsity", "bits", "kept", "value_floor", "value_entropy", "mask_entropy"}
    formats = dict.fromkeys(name for row in chosen for name in row if name not in known)
    made = [{"format": name, **{row["source"]: row.get(name) for row in chosen}} for name in formats]
    return sorted(made, key=lambda row: row["format"] != "joint_floor")


def xor_masks(rows: Sequence[Row]) -> list[Row]:
    """Masks at two sparsities, pruned by one threshold a layer."""
    chosen = [row for row in rows if row["sparsity"] in (0.7, SPARSITY) and row["threshold"] == "layer"]
    return columns(chosen, ("source", "sparsity", "entropy", "bitmap", "gaps", "classes", "densities", "smallest"))


def xor_encode(rows: Sequence[Row]) -> list[Row]:
    """Million weights per second: all of the encoder, its kernel alone."""
    chosen = [row for row in rows if row["sparsity"] == SPARSITY]
    return columns(chosen, ("code", "planes", "encode_mw_s", "solve_mw_s", "note"))


def xor_decode(rows: Sequence[Row]) -> list[Row]:
    """Of more weights than caches hold: the kernel in gigabits of weights per second, beside copies of its output."""
    chosen = [row for row in rows if row["sparsity"] == SPARSITY]
    return columns(chosen, ("code", "outputs_gbit_s", "of_copy", "of_new_copy"))


def xor_alexnet(rows: Sequence[Row]) -> list[Row]:
    """A layer at 91 % and one bit, its mask that of magnitudes or a product."""
    first = rows[0]["layer"]
    names = ("method", "store", "value_bits", "mask_bits", "scale_bits", "bits_per_weight", "joint_floor")
    return columns([row for row in rows if row["layer"] == first], (*names, "relative_error"))


def curves(rows: Sequence[Row], target: Path) -> str:
    """A picture of the gaps over stored bits, a panel for each source; the Markdown that shows it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sources = list(dict.fromkeys(row["source"] for row in rows))
    across = min(4, len(sources))
    down = -(-len(sources) // across)
    size = (2.7 * across, 2.6 * down + 0.7)
    figure, panels = plt.subplots(down, across, figsize=size, sharex=True, sharey=True, squeeze=False)
    figure.set_layout_engine("constrained")
    for axes, source in zip(panels.flat, sources, strict=False):
        for method, colour in COLOURS.items():
            found = [row for row in rows if row["source"] == source and row["method"] == method and "gap_bits" in row]
            points = sorted((row["bits_per_weight"], row["gap_bits"]) for row in found)
            if points:
                axes.plot(*zip(*points, strict=True), "o-", color=colour, label=method, markersize=4, linewidth=1.2)
        axes.axhline(0, color="0.4", linestyle="--", linewidth=1)
        axes.set_title(source, fontsize=9)
        axes.set(xlim=(0.3, 4.7), ylim=(-1.25, 1.6))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels.flat[len(sources) :]:
        axes.set_visible(False)
    for axes in panels.flat[max(len(sources) - across, 0) : len(sources)]:  # the lowest of each column
        axes.set_xlabel("stored bits", fontsize=9)
        axes.tick_params(labelbottom=True)
    figure.supylabel("gap to the Gaussian bound, bits", fontsize=9)
    named = {label: line for axes in panels.flat for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    figure.savefig(target, metadata={"Date": None})
    plt.close(figure)
    return f"![Gap to the Gaussian bound over stored bits, method by method](../generated/parts/{target.name})\n"


def products(rows: Sequence[Row]) -> list[Row]:
    """How many times faster than dense ``F @ x`` is, by batch."""
    batches = sorted({row["batch"] for row in rows})
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        if row["side"] == "F @ x":
            names = ("shape", "case", "bits_per_weight", "memory_share")
            line = lines.setdefault((row["shape"], row["case"]), {name: row.get(name) for name in names})
            line[f"batch {row['batch']}"] = row["speedup"]
            if row["batch"] == 1:
                line["batch 1, repeated"] = row.get("repeated")
    head = ("shape", "case", "bits_per_weight", "memory_share", "batch 1, repeated")
    order = (*head, *(f"batch {batch}" for batch in batches))
    return [{name: line.get(name) for name in order} for line in lines.values()]


def accuracy(rows: Sequence[Row], *stages: str) -> list[Row]:
    """Scores, with the stored bits, of each network and method: a column for each size. Of several stages the last."""
    rows = [row for row in rows if row["stage"] in stages and row.get("aimed_ratio") is None]
    sizes = {f"{bits:g} bits": None for bits in sorted({row["target"] for row in rows})}
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: stages.index(row["stage"])):
        head = {name: row[name] for name in ("network", "measure", "dense", "method")}
        line = lines.setdefault((row["network"], row["method"]), head | sizes)
        line[f"{row['target']:g} bits"] = f"{row['score']:.4g} ({row['bits_per_weight']:.2f})"
    return list(lines.values())


def accuracy_ratios(rows: Sequence[Row]) -> list[Row]:
    """Sizes that are aimed at as a share of the dense network's bytes."""
    names = ("network", "aimed_ratio", "ratio", "bits_per_weight", "method", "stage", "dense", "score")
    return columns([row for row in rows if row.get("aimed_ratio") is not None], names)


def accuracy_tuned(rows: Sequence[Row]) -> list[Row]:
    """What was trained, beside the scores of the same method and size before: a column for each stage."""
    key = ("network", "target", "aimed_ratio", "method")
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        if row["stage"] == "fine-tuned":
            head = {
                name: row.get(name) for name in ("network", "measure", "method", "bits_per_weight", "steps", "dense")
            }
            lines[tuple(map(row.get, key))] = head
    before = ("weights", "batch norm", "calibrated", "calibrated, batch norm", "fine-tuned")
    for row in rows:
        if (line := lines.get(tuple(map(row.get, key)))) is not None:
            line[row["stage"]] = row["score"]
    names = ("network", "measure", "method", "bits_per_weight", "steps", "dense", *before)
    return columns(list(lines.values()), names)
