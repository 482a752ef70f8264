"""The short table of ``tools/gpu_check.sh``."""

from statistics import median


def render(result: dict) -> str:
    """The short table, after what was measured and what was left out."""
    machine = result["machine"]
    parts = [
        ", ".join(
            str(machine[key])
            for key in ("device", "torch", "cuda", "driver", "date", "commit")
            if machine.get(key)
        )
    ]
    ceilings = result["operator"].get("ceilings", {})
    for dtype, rates in ceilings.items():
        exponentials = rates["exponentials"]
        parts.append(
            f"ceilings, {dtype}: copy {rates['moved_bytes'] / 1e9:.0f} GB/s, "
            f"matrix product {2 * rates['multiply_adds'] / 1e12:.1f} TFLOP/s"
            + (f", {exponentials / 1e12:.2f} T exp/s" if exponentials else "")
        )
    for name, step in result["steps"].items():
        line = f"{name}: {step['outcome']}, {step['seconds']:.0f} s"
        parts.append(f"{line}: {step['why']}" if step["why"] else line)
    for what, why in result["operator"].get("skipped", {}).items():
        parts.append(f"skipped: {what}: {why}")
    if rows := backbone_rows(result["backbone"]):
        parts += ["", *aligned(rows)]
    if rows := operator_rows(result):
        parts += ["", *aligned(rows)]
        parts.append(
            "ms: the GPU alone, without waiting for the host; floor: the longest of "
            "bytes, exponentials and products at their ceilings; copy: share of the "
            "copy's rate; times as long as ours, as called: reference, best eager "
            "form, compiled reference, softmax attention (SDPA)"
        )
    return "\n".join(parts)


def operator_rows(result: dict) -> list[list[str]]:
    """Header and a row a case and direction."""
    compiled = {
        case_key(record["case"]): record
        for record in result["compiled"].get("records", [])
    }
    header = "case,dtype,passes,ms,floor,copy,reference,eager,compiled,SDPA,MiB"
    rows = []
    for record in result["operator"].get("records", []):
        ours, times = record["ours"], record["times"]
        both = record["direction"] != "forward"
        alone, bound = median(record["queued"]), record["floors"]
        rows.append(
            [
                record["case"]["name"],
                record["case"]["dtype"],
                "both" if both else "forward",
                f"{1e3 * alone:.3f}",
                f"{1e3 * max(bound.values()):.3f}",
                f"{bound['moved_bytes'] / alone:.0%}",
                times_ours(times, ours, "reference"),
                times_ours(times, ours, "eager"),
                times_ours(
                    compiled.get(case_key(record["case"]), {}).get("times", {})
                    if both
                    else {},
                    ours,
                    "compiled reference",
                ),
                times_ours(times, ours, "SDPA"),
                f"{record['peaks'][ours] / 2**20:.1f}" if record["peaks"] else "",
            ]
        )
    return [header.split(","), *rows] if rows else []


def backbone_rows(backbone: dict) -> list[list[str]]:
    """Header and a row a backbone: images a second."""
    records = backbone.get("records", [])
    if not records:
        return []
    header = ["images a second"]
    for record in records:
        setting = record["setting"]
        what = "training" if setting["training"] else "inference"
        header.append(f"{setting['height']}x{setting['width']} {what}")
    rows = []
    for name in backbone["parameters"]:
        cells = (
            f"{r['setting']['batch'] / median(r['times'][name]):.0f}"
            if name in r["times"]
            else ""
            for r in records
        )
        rows.append([name, *cells])
    return [header, *rows]


def case_key(case: dict) -> tuple[str, str]:
    """What tells cases apart."""
    return case["name"], case["dtype"]


def times_ours(times: dict[str, list[float]], ours: str, other: str) -> str:
    """How many times as long another one takes, where both were measured."""
    if ours not in times or other not in times:
        return ""
    return f"{median(times[other]) / median(times[ours]):.2f}"


def aligned(rows: list[list[str]]) -> list[str]:
    """Rows with their columns below each other: first left, others right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]
