# SPDX-License-Identifier: LGPL-2.1-or-later
"""Draws the table: one small chart per line, each run a dot, the median a bar, the goals as lines."""


def draw(results, path):
    """Writes an SVG; says so and does nothing without matplotlib."""
    lines = results["table"]
    if not lines:
        return
    try:
        import matplotlib
        matplotlib.use("svg")
        from matplotlib import pyplot
    except ImportError:
        print("no picture: python3-matplotlib is not installed")
        return
    matplotlib.rcParams.update({"font.size": 8, "svg.hashsalt": "bench"})
    columns = min(4, len(lines))
    rows = -(-len(lines) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(3.2 * columns, 2.9 * rows), squeeze=False)
    for axis in axes.flat[len(lines):]:
        axis.set_visible(False)
    for axis, line in zip(axes.flat, lines):
        chart(axis, line)
    facts = results["machine"]
    figure.suptitle(f"Moves on {facts['cores']} cores, Linux {facts['kernel']}, mode {results['mode']}"
                    f"{', quick (small sizes)' if results['quick'] else ''}, {facts['time'][:10]}")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def chart(axis, line):
    """One line of the table."""
    values = line["values"]
    axis.bar([0], [line["median"]], width=0.5, color="#4c78a8" if line["reached"] else "#e45756", alpha=0.6)
    spread = [0.18 * (i / max(1, len(values) - 1) * 2 - 1) for i in range(len(values))]
    axis.scatter(spread, values, s=9, color="black", zorder=3)
    axis.axhline(line["goal"], color="#54a24b", linewidth=1.2, label=f"goal {line['goal']}")
    axis.axhline(line["later"], color="#54a24b", linewidth=1, linestyle=":", label=f"later {line['later']}")
    axis.set_title(line["text"], fontsize=8)
    axis.set_xticks([])
    axis.set_xlim(-0.6, 0.6)
    axis.set_ylim(0, max(*values, line["median"], line["goal"]) * 1.3)
    axis.set_ylabel(line["unit"] or "share")
    axis.text(0.02, 0.97, f"median {line['median']:.3g}\nworst {line['worst']:.3g}", transform=axis.transAxes,
              verticalalignment="top", fontsize=7)
    axis.legend(fontsize=6, loc="upper right")
