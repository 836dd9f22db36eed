"""Prove labs: the solution earns full marks, the untouched release none, and each planted fault fails exactly the checks it should.

Exit code 1 when a proof fails.
"""

import typer

from graders.commands.shared import Json, Labs, Root, chosen_labs, course_root, plain, print_json


def run(labs: Labs = None, root: Root = None, json: Json = False) -> None:
    """Validate labs."""
    from graders.validate import prove_lab

    folder = course_root(root)
    failed, rows = False, []
    for lab in chosen_labs(folder, labs):
        for proof in prove_lab(folder, lab):
            failed |= bool(proof.problems)
            report = proof.report
            rows.append(
                {"lab": lab, "subject": proof.subject, "points": report.points, "max_points": report.max_points, "problems": proof.problems}
            )
            if not json:
                word = "FAIL" if proof.problems else "ok  "
                print(
                    f"{word} {lab} {proof.subject}: {report.points:g} of {report.max_points:g} points, {report.seconds:.1f} s", flush=True
                )
                for problem in proof.problems:
                    print(f"     {plain(problem)}", flush=True)
    if json:
        print_json(rows)
    raise typer.Exit(1 if failed else 0)
