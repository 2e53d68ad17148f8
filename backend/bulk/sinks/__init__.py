"""Where the results of a run go: files gathered from lines, a file for each image, or the predictions of a project."""
