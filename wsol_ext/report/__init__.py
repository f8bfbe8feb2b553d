"""Pictures and pages that show what a model localizes."""
