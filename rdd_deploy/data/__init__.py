"""One file per data set: where the files lie, classes, palette."""
