"""nbgrader's configuration of this course: its own steps in their order, with three of ours in a release and four in grading.

Left to its defaults, `nbgrader autograde` (and Formgrader's button) would run students' code as you. Here its execute step is the course's
own engine, which runs that code in a sandbox; so this file is part of the trust boundary.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

c = get_config()

# Steps are named, not imported: where `graders` can't be imported, nbgrader stops instead of falling back to its own steps.
c.Autograde.sanitize_preprocessors = [
    "graders.nbgrader_bridge.RefuseLinks",
    "nbgrader.preprocessors.ClearOutput",
    "graders.nbgrader_bridge.RestoreCells",
    "nbgrader.preprocessors.DeduplicateIds",
    "nbgrader.preprocessors.OverwriteKernelspec",
    "nbgrader.preprocessors.OverwriteCells",
    "nbgrader.preprocessors.CheckCellMetadata",
]
c.Autograde.autograde_preprocessors = [
    "graders.nbgrader_bridge.EngineExecute",
    "nbgrader.preprocessors.IgnorePattern",
    "nbconvert.preprocessors.ClearMetadataPreprocessor",
    "nbgrader.preprocessors.LimitOutput",
    "nbgrader.preprocessors.SaveAutoGrades",
    "graders.nbgrader_bridge.AssignReportPenalty",
    "nbgrader.preprocessors.CheckCellMetadata",
]
c.GenerateAssignment.preprocessors = [
    "nbgrader.preprocessors.IncludeHeaderFooter",
    "nbgrader.preprocessors.InstantiateTests",
    "graders.nbgrader_bridge.StableMetadata",
    "nbgrader.preprocessors.LockCells",
    "nbgrader.preprocessors.ClearSolutions",
    "nbgrader.preprocessors.ClearOutput",
    "nbgrader.preprocessors.CheckCellMetadata",
    "nbgrader.preprocessors.ComputeChecksums",
    "nbgrader.preprocessors.SaveCells",
    "nbgrader.preprocessors.ClearHiddenTests",
    "nbgrader.preprocessors.ClearMarkScheme",
    "nbgrader.preprocessors.ComputeChecksums",
    "nbgrader.preprocessors.CheckCellMetadata",
    "graders.nbgrader_bridge.ShipPublicFiles",
    "graders.nbgrader_bridge.ProveClean",
]
# nbgrader copies every other file of a folder from step to step: a report must neither come in with a submission nor go out as feedback.
c.CourseDirectory.ignore = [".*", "*.pyc", "__pycache__", "feedback", "report.json"]

try:
    from graders.course import load_course

    c.CourseDirectory.course_id = load_course(ROOT).name
except Exception as error:  # noqa: BLE001 - nbgrader drops a configuration that raises, and all of the above with it
    print(f"nbgrader_config.py: the course has no id for nbgrader's exchange ({error})", file=sys.stderr)
