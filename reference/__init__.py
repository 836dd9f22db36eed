"""Expert implementations, one topic a module; what budgets are measured against. Never shipped to students."""
