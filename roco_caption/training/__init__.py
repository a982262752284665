"""Training that resumes exactly where it was stopped."""
