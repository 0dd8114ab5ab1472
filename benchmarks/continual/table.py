"""Puts the table of a result between the marks in a page.

python3 benchmarks/continual/table.py benchmarks/results/continual.json docs/guides/continual.md
"""

import json
import sys

BEGIN = "<!-- benchmarks/continual/table.py writes what follows -->"
END = "<!-- to here -->"


def table(report):
    result, machine = report["result"], report["machine"]
    lines = []
    for scenario in result["scenarios"]:
        rows = [line for line in result["lines"] if line["scenario"] == scenario["name"]]
        joint = next(row for row in rows if row["joint"])
        train = sum(task["train"] for task in scenario["tasks"])
        test = sum(task["test"] for task in scenario["tasks"])
        lines += [
            f"**{scenario['name']}**: {len(scenario['tasks'])} tasks, {train} texts to learn from and "
            f"{test} to judge by.",
            "",
            "| method | ACC | less joint | BWT | FWT | forgetting | less joint | CPU s |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            less = ["-", "-"]
            if not row["joint"]:
                less = [f"{row[name] - joint[name]:+.1f}" for name in ("acc", "forgetting")]
            lines.append(
                f"| {row['method']} | {row['acc']:.1f} | {less[0]} | {row['bwt']:+.1f} | "
                f"{row['fwt']:+.1f} | {row['forgetting']:+.1f} | {less[1]} | "
                f"{row['seconds']['cpu_s']:.1f} |"
            )
        lines.append("")
    lines += [
        f"In points; means over {result['orders']} orders and seeds. `benchmarks/continual/run.sh`, "
        f"{report['date'][:10]}, {machine['cpu']}, {machine['cores']} cores, load {machine['load']} at "
        f"the start, {report['build']['profile']} build.",
    ]
    return "\n".join(lines)


def main():
    result, page = sys.argv[1:]
    with open(result, encoding="utf-8") as file:
        report = json.load(file)
    with open(page, encoding="utf-8") as file:
        before, rest = file.read().split(BEGIN)
    _, after = rest.split(END)
    with open(page, "w", encoding="utf-8") as file:
        file.write(f"{before}{BEGIN}\n\n{table(report)}\n\n{END}{after}")


if __name__ == "__main__":
    main()
