"""Strip solutions and hidden tests from source/ into release/, and prove that nothing leaked.

The same bytes as `nbgrader generate_assignment`. A release that would leak a line of a solution, a hidden test, a reference or an
output is refused and the earlier release stays.
"""

from graders.commands.shared import Json, Labs, Root, chosen_labs, course_root, print_json, progress_bar


def run(labs: Labs = None, root: Root = None, json: Json = False) -> None:
    """Release labs."""
    from graders.release import release

    folder = course_root(root)
    slugs = chosen_labs(folder, labs)
    with progress_bar(len(slugs), "Releasing", quiet=json) as advance:
        written = release(folder, slugs, advance)
    if json:
        print_json([{"lab": slug, "folder": str(path)} for slug, path in zip(slugs, written, strict=True)])
    else:
        for path in written:
            print(f"Released {path.relative_to(folder)}/, and no line of a solution, hidden test or reference is in it.")
