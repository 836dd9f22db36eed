"""The commands of `classroom`, one module each. A command's help is its module's docstring, its options are those of `run`."""

# In the order of a term; the summaries stand here so that `classroom --help` imports nothing else.
SUMMARIES = {
    "demo": "Make a small class in a scratch folder, grade it, and say where to look.",
    "release": "Strip solutions into release/, and prove that nothing leaked.",
    "validate": "Prove labs: solution full marks, release none, each planted fault exactly its checks.",
    "check": "Run the public checks on a notebook, as a student.",
    "grade": "Grade what was handed in: reports, autograded/, gradebook.db.",
    "feedback": "Write the HTML pages: one per submission, one for the class.",
}
