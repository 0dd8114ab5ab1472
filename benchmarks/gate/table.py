"""Prints what the gate's trial found; keeps it as a result and in a page where these are named.

python3 benchmarks/gate/table.py FOUND [RESULT PAGE]
"""

import datetime
import json
import os
import platform
import sys

BEGIN = "<!-- benchmarks/gate/table.py writes what follows -->"
END = "<!-- to here -->"
CLAIM = (
    "every bad twin is caught by the layer that is meant for it in at least 99 of 100 runs, "
    "an identical one is blocked in at most 1"
)


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return {
        "cpu": names[0] if names else "unknown",
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def table(found):
    lines = [
        "| twin | meant for | caught by it | blocked | waits | promoted | also seen by | truly |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found["twins"]:
        caught = "" if row["caught"] is None else f"{row['caught']} of {row['runs']}"
        others = [f"{name} {n}" for name, n in row["layers"].items() if name != row["meant"]]
        lines.append(
            f"| {row['twin']} | {row['meant']} | {caught} | {row['blocked']} | {row['waits']} | "
            f"{row['promoted']} | {', '.join(others)} | {100 * row['truly']:+.1f} |"
        )
    return "\n".join(lines)


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        text = file.read()
    if not text.strip():
        sys.exit("the trial said nothing: its complaint is above")
    found = json.loads(text)
    print(table(found))
    for broken in found["broken"]:
        print(f"does not hold: {broken}")
    if len(sys.argv) == 2:
        return
    result, page = sys.argv[2:]
    here, now = machine(), datetime.datetime.now(datetime.timezone.utc).isoformat()
    with open(result, "w", encoding="utf-8") as file:
        report = {"benchmark": "gate", "claim": CLAIM, "date": now, "machine": here, "result": found}
        json.dump(report, file, indent=2)
        file.write("\n")
    suite = found["suite"]
    about = (
        f"{found['runs']} runs, seed {found['seed']}, suite {suite['name']} {suite['version']}, "
        f"{found['seconds'] / 60:.0f} minutes. `benchmarks/gate/run.sh`, {now[:10]}, {here['cpu']}, "
        f"{here['cores']} cores."
    )
    with open(page, encoding="utf-8") as file:
        before, rest = file.read().split(BEGIN)
    _, after = rest.split(END)
    with open(page, "w", encoding="utf-8") as file:
        file.write(f"{before}{BEGIN}\n\n{table(found)}\n\n{about}\n\n{END}{after}")


if __name__ == "__main__":
    main()
