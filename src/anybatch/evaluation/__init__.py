"""HOW WELL a model does: answers and their scores, classes of images told right."""
