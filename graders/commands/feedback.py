"""Write the HTML pages from the reports: feedback/<student>/<lab>/<lab>.html for each submission, feedback/index.html for the class."""

from graders.commands.shared import Json, Labs, Root, chosen_labs, course_root, print_json, progress_bar


def run(labs: Labs = None, root: Root = None, json: Json = False) -> None:
    """Write feedback."""
    from graders.cohort import find_submissions
    from graders.course import Layout
    from graders.feedback import write_feedback
    from graders.report import read_report

    folder = course_root(root)
    layout = Layout(folder)
    paths = [layout.report(student, lab) for student, lab in find_submissions(folder, chosen_labs(folder, labs), [])]
    reports = [read_report(path) for path in paths if path.exists()]
    with progress_bar(len(reports), "Writing pages", quiet=json) as advance:
        pages = write_feedback(reports, folder / "feedback", lambda path: advance(path.stem))
    if json:
        print_json([str(page) for page in pages])
    else:
        print(f"{len(reports)} pages. The class: {layout.feedback_index}")
