"""Searches the models of the algorithms exhaustively, and checks that each broken variant fails.

models/*.pml are checked by spin, models/litmus/*.toml by tools/litmus.py.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

import litmus

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "models"


def spin(file: Path, defines: str, limit: int) -> tuple[str, int]:
    """Search a model; return what fails (or an empty string) and the number of states."""
    with tempfile.TemporaryDirectory() as folder:

        def call(*command: str) -> str:
            done = subprocess.run(
                command, check=False, cwd=folder, capture_output=True, text=True, timeout=1800
            )
            if done.returncode not in (0, 1, 2):
                raise SystemExit(f"models: {' '.join(command)}\n{done.stdout}{done.stderr}")
            return done.stdout + done.stderr

        options = [f"-D{define}" for define in defines.split()]
        made = call("spin", *options, "-a", str(file))
        if not (Path(folder) / "pan.c").exists() or "Error" in made:
            raise SystemExit(f"models: {file.name} {defines}\n{made}")
        call(
            "cc",
            "-O1",
            "-w",
            "-DSAFETY",
            "-DCOLLAPSE",
            f"-DMEMLIM={limit}",
            "-DVECTORSZ=4096",
            "-o",
            "pan",
            "pan.c",
        )
        text = call("./pan", "-m1000000", "-n")
    states = re.search(r"(\d[\d.e+]*) states, stored", text)
    errors = re.search(r"errors: (\d+)", text)
    if states is None or errors is None:
        raise SystemExit(f"models: {file.name} {defines}\n{text}")
    wrong = ""
    if int(errors[1]):
        found = re.search(r"pan:\d+: (assertion violated .*|invalid end state.*) \(at depth", text)
        wrong = found[1] if found else "an error"
    elif "max search depth too small" in text or "Search not completed" in text:
        raise SystemExit(f"models: {file.name} {defines}: not searched to the end\n{text}")
    return wrong, int(float(states[1]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev models", description=__doc__)
    parser.add_argument("names", nargs="*", help="only these files, or parts of their names")
    parser.add_argument("--memory", type=int, default=3000, help="megabytes for one search")
    options = parser.parse_args()
    failed = total = searched = broken = 0

    def wanted(name: str) -> bool:
        return not options.names or any(n in name for n in options.names)

    for model in tomllib.loads((MODELS / "models.toml").read_text())["model"]:
        if not wanted(model["file"]):
            continue
        print(f"{model['file']}: {model['properties']}")
        cases = [(True, defines) for defines in model["right"]]
        cases += [(False, defines) for defines in model["broken"]]
        for right, defines in cases:
            begin = time.monotonic()
            wrong, states = spin(MODELS / model["file"], defines, options.memory)
            good = bool(wrong) != right
            total += states
            failed += not good
            searched += right
            broken += not right
            verdict = "holds" if not wrong else f"fails: {wrong}"
            print(
                f"  {'right ' if right else 'broken'} {defines:40} {states:11,} states"
                f" {time.monotonic() - begin:6.1f} s  {verdict}{'' if good else '   <-- WRONG'}",
                flush=True,
            )
    for path in sorted((MODELS / "litmus").glob("*.toml")):
        if wanted(f"litmus/{path.name}"):
            checked, bad = litmus.check(path)
            total += checked
            failed += bad
    if not total:
        parser.error(f"no model has one of these in its file's name: {options.names}")
    print(
        f"{searched} models hold, {broken} broken ones fail, {total:,} states and executions; {failed} wrong"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
