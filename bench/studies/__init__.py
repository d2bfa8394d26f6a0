"""Studies of policies: declarations, the runner, results on disk, reports; a folder for each study."""
