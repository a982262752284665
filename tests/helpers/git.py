"""Git, for tests that need a repository."""

import subprocess


def git(folder, *command):
    """Run a git command in a folder as a made-up author, and return what it prints."""
    identity = ["-c", "user.name=tests", "-c", "user.email=tests@localhost"]
    done = subprocess.run(
        ["git", *identity, *command], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
